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
    asked = {"loads": list(loads), "least": min_play_seconds * 1000}
    for load_id, skipped in connection.execute(
        """
        select _dlt_load_id, count(*)
        from raw.listens
        where
            _dlt_load_id = any(%(loads)s)
            and played_ms < %(least)s
            and (duration_ms is null or 2 * played_ms < duration_ms)
        group by _dlt_load_id
        """,
        asked,
    ):
        loads[load_id].skipped = skipped
    new_listens: dict[str, int] = dict(
        connection.execute(
            """
            with spans as (
                select min(listened_at) as earliest, max(listened_at) as latest
                from raw.listens
                where _dlt_load_id = any(%(loads)s)
            ),

            listens as (
                select min(_dlt_load_id) as first_load_id
                from raw.listens
                where
                    listened_at >= (select spans.earliest from spans)
                    and listened_at <= (select spans.latest from spans)
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
