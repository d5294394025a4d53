"""What became of imported files, for the table at the end of an import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg

MIN_PLAY_SECONDS = 30
"""As the dbt var of that name is by default."""


@dataclass
class ImportedFile:
    """What became of one file (or one in a zip), in records.

    records = landed + refused + no_music; `duplicates` and `skipped` are among the landed ones.
    """

    name: str
    format: str = ""
    records: int = 0
    landed: int = 0
    duplicates: int = 0
    """The same listen as an earlier record of any file or source."""
    skipped: int = 0
    """Played for too short to count."""
    refused: int = 0
    no_music: int = 0
    """Podcasts, audiobooks, headers, what is still playing."""
    was_imported: bool = False
    """It was imported before, and nothing was done."""
    error: str | None = None
    """Why the whole file was refused, in one line."""
    load_id: str | None = None


def count_repeats(connection: psycopg.Connection, files: Sequence[ImportedFile], min_play_seconds: float) -> None:
    """Fill in `duplicates` and `skipped`; dbt decides on both by the same rules when it builds."""
    loads = {file.load_id: file for file in files if file.load_id}
    if not loads:
        return
    rows = connection.execute(
        """
        with landed as (
            select
                _dlt_load_id,
                listen_id,
                min(listened_at) as listened_at,
                count(*) as times,
                count(*) filter (
                    where played_ms < %(least)s and (duration_ms is null or 2 * played_ms < duration_ms)
                ) as skips
            from raw.listens
            where _dlt_load_id = any(%(loads)s)
            group by _dlt_load_id, listen_id
        ),

        earlier as (
            select distinct landed._dlt_load_id, landed.listen_id
            from landed
            inner join raw.listens as held
                on landed.listen_id = held.listen_id and held._dlt_load_id < landed._dlt_load_id
            where held.listened_at between (select min(landed.listened_at) from landed)
                and (select max(landed.listened_at) from landed)
        )

        select
            landed._dlt_load_id,
            sum(landed.times) - count(*) + count(earlier.listen_id),
            sum(landed.skips)
        from landed
        left join earlier using (_dlt_load_id, listen_id)
        group by landed._dlt_load_id
        """,
        {"loads": list(loads), "least": min_play_seconds * 1000},
    )
    for load_id, duplicates, skipped in rows:
        loads[load_id].duplicates, loads[load_id].skipped = int(duplicates), int(skipped)
