"""Housekeeping of the warehouse: what is old is let go, statistics are made fresh.

What reconciliation counts by stays: a refused record keeps its row, its hash and its time, and loses only its text;
windows leave the table once they are written to Parquet.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from music_pulse.database import connect
from music_pulse.errors import PulseError
from music_pulse.settings import Settings

if TYPE_CHECKING:
    import psycopg

logger = logging.getLogger(__name__)

_BATCH = 1_000
_SCHEMAS = ("raw", "intermediate", "marts")

_OLD_PAYLOADS = """
select ctid::text, payload from raw.quarantine
where seen_at < now() - make_interval(days => %(days)s) and length(payload) > %(shortest)s
limit %(batch)s
"""
_SHORTEST = 40
"""Letters of a payload that is only a time."""

_OLD_WINDOWS = """
delete from raw.trending_windows
where
    window_start < date_trunc('day', now(), 'UTC') - make_interval(days => %(days)s)
    and cast(window_start at time zone 'UTC' as date) = any(%(written)s)
"""


def shorten_quarantine(settings: Settings, days: int) -> int:
    """Blank the text of records refused more than `days` ago, but for their time; return how many."""
    done = 0
    with connect(settings.credentials("loader")) as connection:
        while rows := connection.execute(
            _OLD_PAYLOADS, {"days": days, "shortest": _SHORTEST, "batch": _BATCH}
        ).fetchall():
            with connection.cursor() as cursor:
                cursor.executemany(
                    "update raw.quarantine set payload = %s where ctid = cast(%s as tid)",
                    [(_only_its_time(payload), place) for place, payload in rows],
                )
            connection.commit()
            done += len(rows)
    return done


def drop_old_windows(settings: Settings, days: int) -> int:
    """Delete trending windows that are older than `days` and stand in Parquet; return how many rows."""
    from streaming.tables import LOCK_WINDOWS
    from streaming.window_archive import archive_windows, written_days

    folder = settings.archive_dir / "trending_windows"
    archive_windows(settings.credentials("loader"), folder)
    with connect(settings.credentials("loader")) as connection:
        connection.execute(LOCK_WINDOWS)
        return connection.execute(_OLD_WINDOWS, {"days": days, "written": written_days(folder)}).rowcount


def drop_old_snapshots(settings: Settings) -> int:
    """Remove what interrupted exports left beside the current snapshot; return how many files."""
    from serving.export import remove_leftovers

    return remove_leftovers(settings)


def vacuum(settings: Settings) -> list[str]:
    """Vacuum and analyze every table of the warehouse; return their names."""
    with connect(settings.credentials("admin"), autocommit=True) as connection:
        tables = _tables(connection)
        for table in tables:
            connection.execute(f"vacuum (analyze) {table}".encode())
    return tables


def _tables(connection: psycopg.Connection) -> list[str]:
    rows = connection.execute(
        """
        select format('%%I.%%I', schemaname, tablename) from pg_tables where schemaname = any(%s) order by 1
        """,
        [list(_SCHEMAS)],
    )
    return [name for (name,) in rows]


def _only_its_time(payload: str) -> str:
    """Return what of a refused record reconciliation goes by: when it was listened to, where it says so."""
    from music_pulse.listens import from_json

    try:
        second = from_json(payload.encode())["listened_at"]
    except (ValueError, TypeError, LookupError, PulseError):
        return ""
    return json.dumps({"listened_at": second}) if type(second) is int and abs(second) < 10**15 else ""
