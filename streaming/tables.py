"""The raw tables that the stream writes: raw.sql -> Postgres."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg

_SQL = Path(__file__).with_name("raw.sql").read_text(encoding="utf-8")
_NAMES = re.findall(r"^create (?:table|index) if not exists (?:raw\.)?(\w+)", _SQL, re.MULTILINE)
_LOCK = 0x73747265  # any number, the same in all of our processes
LOCK_WINDOWS = f"select pg_advisory_xact_lock({_LOCK + 1})"
"""Whoever writes raw.trending_windows begins with it; until the transaction ends, the others wait.

Neither a copy nor a merge bears that somebody else inserts the same row. A lock of the table would also wait for its
vacuum, for a second (`deadlock_timeout`), and then break that off.
"""


def create_stream_tables(connection: psycopg.Connection) -> None:
    """Make the tables and indexes of `raw.sql` that are missing; any number of processes may do it at once.

    Costs one query where all are there: `create index` would wait for whoever is writing. The login must own schema
    raw (role loader); without autocommit the caller commits.
    """
    if _all_there(connection):
        return
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
        if not _all_there(connection):
            connection.execute("set local client_min_messages to warning")
            connection.execute(_SQL.encode())


def _all_there(connection: psycopg.Connection) -> bool:
    query = "select count(to_regclass('raw.' || name)) from unnest(%s::text[]) as name"
    return connection.execute(query, [_NAMES]).fetchone() == (len(_NAMES),)
