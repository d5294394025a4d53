"""What became of imported files, for the table at the end of an import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from extract.skips import IS_SKIP, least_played_ms
from music_pulse.settings import Settings

if TYPE_CHECKING:
    import psycopg


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
    repeats: int = 0
    """Duplicates of an earlier record of the same file."""
    load_id: str | None = None


def count_repeats(connection: psycopg.Connection, files: Sequence[ImportedFile], settings: Settings) -> None:
    """Fill in `duplicates` and `skipped`; dbt decides on both by the same rules when it builds."""
    loads = {file.load_id: file for file in files if file.load_id}
    if not loads:
        return
    asked: dict[str, Any] = {"loads": list(loads), "least_played_ms": least_played_ms(settings)}
    spans = connection.execute(
        f"""
        select
            _dlt_load_id,
            count(*) filter (where {IS_SKIP}),
            min(listened_at),
            max(listened_at)
        from raw.listens
        where _dlt_load_id = any(%(loads)s)
        group by _dlt_load_id
        """.encode(),
        asked,
    ).fetchall()
    for load_id, skipped, _, _ in spans:
        loads[load_id].skipped = skipped
    asked["earliest"] = min((span[2] for span in spans), default=None)
    asked["latest"] = max((span[3] for span in spans), default=None)
    if len(loads) == 1 and not _has_others(connection, asked):
        for file in loads.values():
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


def _has_others(connection: psycopg.Connection, asked: dict[str, Any]) -> bool:
    """Return whether other loads have listens of the same time."""
    row = connection.execute(
        """
        select exists (
            select 1
            from raw.listens
            where listened_at between %(earliest)s and %(latest)s and _dlt_load_id != all(%(loads)s)
        )
        """,
        asked,
    ).fetchone()
    return row == (True,)
