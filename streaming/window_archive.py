"""raw.trending_windows -> Parquet, a file a day (`windows.parquet`), once no batch changes the day any more.

A day is that of `window_start`. It is over when the watermark of the query at work has passed its last window; a query
with a new checkpoint counts anew from `whole_from`, so the days from there on wait for it, and are written again. The
fingerprint of a file names the queries that may have written its windows: what is to be done is known from the ledger
alone, however many windows there are.
"""

from __future__ import annotations

import logging
import time
from datetime import date
from pathlib import Path
from typing import Any

from music_pulse.errors import PulseError
from music_pulse.settings import Credentials
from streaming.day_files import DAY_SECONDS, WITHIN_DAY, DayFiles

logger = logging.getLogger(__name__)

WINDOWS_FILE = "windows.parquet"
"""The name of a day's file."""

_SECONDS = 60.0
"""Between two looks at whether a day is over."""

_FORMAT = 1  # raise it when all files are to be written anew

# From day to day by the index, not through all windows.
_DAYS = f"""
with recursive days as (
    select cast(floor(extract(epoch from min(window_start)) / {DAY_SECONDS}) as integer) as day
    from raw.trending_windows
    union all
    select (
        select cast(floor(extract(epoch from min(later.window_start)) / {DAY_SECONDS}) as integer)
        from raw.trending_windows as later
        where later.window_start >= to_timestamp((days.day + 1) * {DAY_SECONDS}.0)
    )
    from days
    where days.day is not null
)
select day from days where day is not null order by day
"""
# Of several queries the one that wrote last is at work: a deleted checkpoint doesn't come back.
_QUERIES = f"""
select
    cast(query_id as text),
    cast(floor(extract(epoch from whole_from) / {DAY_SECONDS}) as integer) as first_day,
    cast(extract(epoch from first_value(watermark) over (order by updated_at desc, query_id)) as bigint) as watermark
from raw.trending_ledger
order by 1
"""
_LENGTH = f"""
select cast(extract(epoch from max(window_end - window_start)) as bigint)
from raw.trending_windows where {WITHIN_DAY.format(column="window_start", day="{day}")}
"""
_ROWS = f"""
select
    window_start, window_end, entity_kind, cast(entity_id as text) as entity_id, artist_name, track_name, listen_count,
    listener_count, updated_at
from raw.trending_windows where {WITHIN_DAY.format(column="window_start", day="{day}")}
order by window_start, window_end, entity_kind, entity_id
"""


def archive_windows(login: Credentials, folder: Path) -> int:
    """Write the days that are over and not written yet to `folder`; return how many.

    Any number of processes may do it at once. Raises `DatabaseError`, or `PulseError` for a folder that can't be
    written.
    """
    files = DayFiles(folder, WINDOWS_FILE)
    with files.updating(login) as cursor:
        queries = _asked(cursor, _QUERIES)
        watermark = queries[0][2] if queries else None
        if watermark is None:
            return 0
        written = 0
        for (day,) in _asked(cursor, _DAYS):
            fingerprint = _fingerprint(queries, day)
            if files.fingerprint(day) != fingerprint and _is_over(cursor, day, watermark):
                files.write(cursor, _ROWS.format(day=day), day, fingerprint)
                written += 1
    return written


def written_days(folder: Path) -> list[date]:
    """Return the days that stand in `folder`."""
    return sorted(
        date.fromisoformat(path.parent.name.removeprefix("day=")) for path in folder.glob(f"day=*/{WINDOWS_FILE}")
    )


class WindowArchiver:
    """Looks now and then. What goes wrong is logged and tried again; nothing is lost by it, the table has it all."""

    def __init__(self, login: Credentials, folder: Path) -> None:
        self._login = login
        self._folder = folder
        self._next = 0.0

    def after_batch(self) -> None:
        """Look, if the last time is a minute ago."""
        if time.monotonic() >= self._next:
            self.look()
            self._next = time.monotonic() + _SECONDS

    def look(self) -> None:
        """Write what is to be written."""
        try:
            if written := archive_windows(self._login, self._folder):
                logger.info("archive: %d days of closed windows written", written)
        except PulseError as error:
            logger.warning("the archive of closed windows waits: %s", error)


def _fingerprint(queries: list[tuple[Any, ...]], day: int) -> str:
    """Name those that may have written windows of this day."""
    writers = [query for query, first_day, _ in queries if first_day is None or first_day <= day]
    return " ".join([str(_FORMAT), *writers])


def _is_over(cursor: Any, day: int, watermark: int) -> bool:
    end = (day + 1) * DAY_SECONDS
    return watermark >= end and watermark >= end + _asked(cursor, _LENGTH.format(day=day))[0][0]


def _asked(cursor: Any, query: str) -> list[tuple[Any, ...]]:
    cursor.execute(query)
    rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows
