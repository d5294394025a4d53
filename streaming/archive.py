"""raw.stream_listens -> Parquet, a file a day (`listens.parquet`), which is written anew when its rows have changed.

A day is that of `listened_at`. The fingerprint of a file is that of the rows it holds.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from music_pulse.errors import PulseError
from music_pulse.settings import Credentials
from streaming.day_files import DAY_SECONDS, WITHIN_DAY, DayFiles
from streaming.listen_rows import UUIDS, StreamRow

log = logging.getLogger(__name__)

ARCHIVE_SECONDS = 300.0
"""Between two looks at what has changed: a day's file is written whole, however little of it is new."""

_MANY_DAYS = 50
_FORMAT = 1  # raise it when all files are to be written anew

# A row changes only together with its load id.
_STATE = """
select
    cast(cast(extract(epoch from listened_at) as bigint) / 86400 as integer) as day,
    count(*) || ' ' || bit_xor(hashtextextended(listen_id || load_id, 0)) as fingerprint
from raw.stream_listens
where {within}
group by 1
order by 1
"""
_COLUMNS = [f"cast({name} as text) as {name}" if name in UUIDS else name for name in (*StreamRow._fields, "load_id")]
_ROWS = f"select {', '.join(_COLUMNS)} from raw.stream_listens where {{within}} order by listened_at, 1"


def day_of(seconds: int) -> int:
    """Return the day (since 1970, UTC) of a time in seconds."""
    return seconds // DAY_SECONDS


class ListensArchive(DayFiles):
    """The Parquet files under `folder`. Days that the table knows nothing of are left as they are."""

    def __init__(self, login: Credentials, folder: Path) -> None:
        super().__init__(folder, "listens.parquet")
        self._login = login

    def update(self, days: Iterable[int] | None = None) -> int:
        """Write the files of `days` (default: all) that don't hold what the table does; return how many.

        Any number of processes may do it at once. Raises `DatabaseError`, or `PulseError` for a folder that can't be
        written.
        """
        wanted = None if days is None else sorted(set(days))
        if wanted == []:
            return 0
        with self.updating(self._login) as cursor:
            stale = [(day, print_) for day, print_ in _state(cursor, wanted) if self.fingerprint(day) != print_]
            for day, fingerprint in stale:
                self.write(cursor, _ROWS.format(within=_within(day)), day, fingerprint)
        return len(stale)


class Archiver:
    """Keeps an archive up to date in a thread of its own: all of it once, then the days that were touched.

    What goes wrong is logged and tried again the next time; nothing is lost by it, the table has it all.
    """

    def __init__(self, archive: ListensArchive, seconds: float = ARCHIVE_SECONDS) -> None:
        self._archive = archive
        self._seconds = seconds
        self._touched: set[int] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)

    def touch(self, days: Iterable[int]) -> None:
        """Say that rows of these days were committed."""
        with self._lock:
            self._touched.update(days)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Bring the archive up to date once more, and end."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        days: set[int] | None = None
        is_last = False
        while True:
            try:
                files = self._archive.update(days)
                days = set()
                log.debug("archive: %d files written", files)
            except PulseError as error:
                log.warning("the archive waits: %s", error)
            if is_last:
                return
            is_last = self._stop.wait(self._seconds)
            with self._lock:
                touched, self._touched = self._touched, set()
            days = None if days is None else days | touched


def _state(cursor: Any, days: list[int] | None) -> list[tuple[int, str]]:
    """Return the fingerprint of what the table holds of each day."""
    chosen = days if days is not None and len(days) <= _MANY_DAYS else None
    within = "true" if chosen is None else " or ".join(map(_within, chosen))
    cursor.execute(_STATE.format(within=within))
    wanted = None if days is None else set(days)
    return [
        (day, f"{_FORMAT} {fingerprint}") for day, fingerprint in cursor.fetchall() if wanted is None or day in wanted
    ]


def _within(day: int) -> str:
    return WITHIN_DAY.format(column="listened_at", day=day)
