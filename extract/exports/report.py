"""What became of imported files, for the table at the end of an import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from extract.skips import IS_SKIP, count_skips, least_played_ms
from music_pulse.settings import Settings

if TYPE_CHECKING:
    import psycopg

NEAR_SECONDS = 60
"""As the dbt var `near_duplicate_seconds` is by default."""


@dataclass
class ImportedFile:
    """What became of one file (or one in a zip), in records.

    records = landed + refused + no_music; `duplicates`, `near_duplicates` and `skipped` are among the landed ones.
    """

    name: str
    format: str = ""
    records: int = 0
    landed: int = 0
    duplicates: int = 0
    """The same listen as an earlier record of any file or source."""
    near_duplicates: int = 0
    """Plays that another file or source has a few seconds earlier or later, and had before."""
    skipped: int = 0
    """Played for too short to count."""
    refused: int = 0
    no_music: int = 0
    """Podcasts, audiobooks, headers, what is still playing."""
    was_imported: bool = False
    """It was imported before, and nothing was done."""
    error: str | None = None
    """Why the whole file was refused, in one line."""
    repeats: int = 0
    """Duplicates of an earlier record of the same file."""
    load_id: str | None = None
    earliest: datetime | None = None
    """When the first of its listens began."""
    latest: datetime | None = None

    def note(self, listens: pa.Table, least_played_ms: float) -> None:
        """Take note of listens that are landed next."""
        if listens.num_rows:
            span = pc.min_max(listens["listened_at"]).as_py()
            self.earliest = min(span["min"], self.earliest or span["min"])
            self.latest = max(span["max"], self.latest or span["max"])
            self.skipped += count_skips(listens, least_played_ms)


def count_repeats(connection: psycopg.Connection, files: Sequence[ImportedFile], settings: Settings) -> None:
    """Fill in `duplicates` and `near_duplicates`; dbt decides on them when it builds.

    Near-duplicates are counted between neighbours, without dbt's rule of which of a chain is kept.
    """
    loads = {file.load_id: file for file in files if file.load_id and file.earliest}
    if not loads:
        return
    asked: dict[str, Any] = {
        "loads": list(loads),
        "least_played_ms": least_played_ms(settings),
        "gap": timedelta(seconds=float(settings.dbt_vars.get("near_duplicate_seconds", NEAR_SECONDS))),
    }
    asked["earliest"] = min(file.earliest for file in loads.values() if file.earliest)
    asked["latest"] = max(file.latest for file in loads.values() if file.latest)
    if len(loads) == 1:
        [(load_id, file)] = loads.items()
        if not _has_others(connection, load_id, asked):
            file.duplicates = file.repeats
            return
    new_listens: dict[str, int] = dict(
        connection.execute(
            """
            with listens as (
                select min(_dlt_load_id) as first_load_id
                from raw.listens
                where listened_at between %(earliest)s and %(latest)s
                group by listen_id
            )

            select first_load_id, count(*)
            from listens
            where first_load_id = any(%(loads)s)
            group by first_load_id
            """,
            asked,
        ).fetchall()
    )
    for load_id, file in loads.items():
        file.duplicates = file.landed - new_listens.get(load_id, 0)
    for load_id, count in _near_duplicates(connection, asked):
        loads[load_id].near_duplicates = count


def _near_duplicates(connection: psycopg.Connection, asked: dict[str, Any]) -> list[tuple[str, int]]:
    """Return load id and number of plays with a neighbour of another origin (design of dbt's `origin_of`)."""
    return connection.execute(
        f"""
        with plays as (
            select distinct on (listen_id)
                lower(user_name) as user_key,
                track_id,
                listened_at,
                _dlt_load_id as load_id,
                (source, submission_client, origin) as origin
            from raw.listens
            where
                listened_at between %(earliest)s - %(gap)s and %(latest)s + %(gap)s
                and ({IS_SKIP}) is not true
            order by listen_id, _dlt_load_id collate "C"
        ),
        placed as (
            select
                plays.*,
                listened_at - lag(listened_at) over in_order < %(gap)s
                and origin is distinct from lag(origin) over in_order
                and load_id > lag(load_id) over in_order collate "C" as follows,
                lead(listened_at) over in_order - listened_at < %(gap)s
                and origin is distinct from lead(origin) over in_order
                and load_id > lead(load_id) over in_order collate "C" as precedes
            from plays
            window in_order as (partition by user_key, track_id order by listened_at)
        )

        select load_id, count(*)
        from placed
        where (follows or precedes) and load_id = any(%(loads)s)
        group by load_id
        """.encode(),
        asked,
    ).fetchall()


def _has_others(connection: psycopg.Connection, load_id: str, asked: dict[str, Any]) -> bool:
    """Return whether other loads have listens of the same time; by ranges, since "not this one" has no index."""
    row = connection.execute(
        """
        select exists (
            select 1
            from raw.listens
            where
                listened_at between %(earliest)s - %(gap)s and %(latest)s + %(gap)s
                and (_dlt_load_id < %(load)s or _dlt_load_id > %(load)s)
        )
        """,
        asked | {"load": load_id},
    ).fetchone()
    return row == (True,)
