"""marts -> what a run shows, and `pulse query`; always as the reader, in a read-only transaction."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from music_pulse.database import connect
from music_pulse.errors import DatabaseError, InputError
from music_pulse.settings import Settings

if TYPE_CHECKING:
    import psycopg

TOP = 5
FETCH_ROWS = 2_000
_WRITING = (
    "alter", "begin", "call", "commit", "copy", "create", "delete", "do", "drop", "grant", "insert", "merge", "reset",
    "revoke", "rollback", "set", "truncate", "update",
)  # fmt: skip

USERS = """
    select user_id, reported, held, difference, landed, refused, duplicates, near_duplicates, skipped, listens
    from marts.reconciliation
    order by listens desc, user_id
"""

TOTALS = """
    select
        coalesce(sum(value) filter (where metric = 'listens'), 0),
        coalesce(sum(value) filter (where metric = 'minutes_listened'), 0),
        coalesce(sum(value) filter (where metric = 'listens_without_duration'), 0),
        max(day)
    from marts.daily_aggregates
    where dimension = 'all'
"""

ENTITIES = "select (select count(*) from marts.tracks), (select count(*) from marts.artists)"

DAY = """
    select
        coalesce(sum(value) filter (where metric = 'listens'), 0),
        coalesce(sum(value) filter (where metric = 'minutes_listened'), 0)
    from marts.daily_aggregates
    where dimension = 'all' and day = %(day)s
"""

DAY_TOP = """
    select kind, rank, name, artist_name, listens, minutes_listened
    from marts.daily_top
    where day = %(day)s and rank <= %(top)s
    order by kind, rank
"""


@dataclass(frozen=True)
class User:
    """One row of `marts.reconciliation`."""

    user_id: str
    reported: int | None
    held: int
    difference: int | None
    landed: int
    refused: int
    duplicates: int
    near_duplicates: int
    skipped: int
    listens: int


@dataclass(frozen=True)
class Top:
    """One row of `marts.daily_top`."""

    kind: str
    rank: int
    name: str
    artist_name: str | None
    listens: int
    minutes_listened: float


@dataclass(frozen=True)
class Summary:
    """What the warehouse holds, and its newest day."""

    users: list[User]
    listens: int
    minutes: float
    listens_without_duration: int
    tracks: int
    artists: int
    newest_day: date | None
    day_listens: int
    day_minutes: float
    top_artists: list[Top]
    top_tracks: list[Top]


def summary(settings: Settings) -> Summary:
    """Read the summary. Raises `DatabaseError` where nothing is built yet."""
    with _reading(settings) as connection:
        try:
            users = [User(*row) for row in connection.execute(USERS)]
            listens, minutes, unknown, day = _row(connection.execute(TOTALS))
            tracks, artists = _row(connection.execute(ENTITIES))
            day_listens, day_minutes = _row(connection.execute(DAY, {"day": day}))
            top = [Top(*row) for row in connection.execute(DAY_TOP, {"day": day, "top": TOP})]
        except connection_errors() as error:
            raise DatabaseError(f"no summary: {_first_line(error)}; build the marts with `pulse dbt build`") from error
    return Summary(
        users=users,
        listens=int(listens),
        minutes=minutes,
        listens_without_duration=int(unknown),
        tracks=tracks,
        artists=artists,
        newest_day=day,
        day_listens=int(day_listens),
        day_minutes=day_minutes,
        top_artists=[row for row in top if row.kind == "artist"],
        top_tracks=[row for row in top if row.kind == "track"],
    )


@contextmanager
def stream_query(settings: Settings, sql: str) -> Iterator[tuple[list[str], Iterator[tuple[Any, ...]]]]:
    """Run one statement and yield its columns and an iterator of its rows, in bounded memory.

    It goes to the server alone (extended protocol) and in a transaction that is read-only from its first query on, so
    it can't write, nor end the transaction and write after it. Raises `InputError` with Postgres' words.
    """
    with _reading(settings) as connection:
        # A transaction that has taken a snapshot can't be made writable again.
        connection.execute("select 1")
        with _cursor(connection, sql) as cursor:
            try:
                cursor.execute(sql.encode())
                if cursor.description is None:
                    raise InputError("query: the statement gives no rows")
                yield [column.name for column in cursor.description], iter(cursor)
            except connection_errors() as error:
                raise InputError(f"query: {_explained(error, sql)}") from error


def _explained(error: Exception, sql: str) -> str:
    """Return what Postgres said; where its words would mislead, what to do."""
    from psycopg import errors

    word = re.match(r"[a-z]*", sql.strip().lower())
    if isinstance(error, errors.SyntaxError) and word and word[0] in _WRITING:
        return f"{word[0].upper()} isn't for here: it only reads (select, with, values, table, show, explain)"
    if isinstance(error, (errors.UndefinedTable, errors.InvalidSchemaName)):
        return f"{_first_line(error)}; `pulse dbt build` builds the marts"
    return _first_line(error)


def _cursor(connection: psycopg.Connection, sql: str) -> Any:
    """Return a cursor that takes one statement only: a server's (it is part of a `declare`), or one that prepares.

    The server keeps the rows and hands them out in lots; it can't do so for these two, whose answers are short.
    """
    if sql.lstrip().lower().startswith(("explain", "show")):
        connection.prepare_threshold = 0
        return connection.cursor()
    cursor = connection.cursor("pulse_query")
    cursor.itersize = FETCH_ROWS
    return cursor


@contextmanager
def _reading(settings: Settings) -> Iterator[psycopg.Connection]:
    with connect(settings.credentials("reader")) as connection:
        connection.read_only = True
        try:
            yield connection
        finally:
            connection.rollback()


def connection_errors() -> type[Exception]:
    """Return what psycopg raises; imported late, since this module is."""
    import psycopg

    return psycopg.Error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _row(cursor: Any) -> Any:
    return cursor.fetchone()
