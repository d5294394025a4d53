"""The tables of schema app: app.sql -> Postgres."""

from __future__ import annotations

from pathlib import Path

from music_pulse.database import connect
from music_pulse.settings import Settings

_SQL = Path(__file__).with_name("app.sql").read_text(encoding="utf-8")
_LOCK = 0x61707073  # any number, the same in all of our processes


def create_app_tables(settings: Settings) -> None:
    """Make what is missing; any number of processes may do it at once. Raises `DatabaseError`."""
    with connect(settings.credentials("app")) as connection:
        connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
        connection.execute("set local client_min_messages to warning")
        connection.execute(_SQL.encode())
