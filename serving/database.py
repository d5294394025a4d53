"""How a route of the server gets a connection: two pools, one for each login, on the server's event loop.

    from serving.database import AppState, Marts

    @router.get("/api/users")
    async def users(marts: Marts) -> list[User]:
        cursor = await marts.execute("select user_id, listens from marts.reconciliation")
        return [User(*row) for row in await cursor.fetchall()]

`Marts` is a psycopg `AsyncConnection` of the role reader, within one read-only transaction of one snapshot; `AppState`
one of the role app, whose transaction is committed when the route returns. Both go back to their pool before the
answer is sent: a slow client holds none. A statement ends after `STATEMENT_SECONDS`. Whatever psycopg raises, no
free connection included, becomes a 503 (`serving.errors`): a route needn't catch it.

What lives longer than a request (LISTEN, for the live page) opens a connection of its own:

    async with request.app.state.databases.listening() as connection:   # role reader, autocommit
        await connection.execute("listen ...")
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import psycopg
from fastapi import Depends, Request
from psycopg_pool import AsyncConnectionPool

from music_pulse.settings import Credentials, Role, Settings

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

STATEMENT_SECONDS = 10
"""What runs longer is cancelled: the page says so, and the pool is not used up."""

# It tells of each attempt, in lines of its own; a request that gets no connection is told of once (`serving.errors`).
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)

MOST_CONNECTIONS = 8
_WAIT_SECONDS = 3.0


class Databases:
    """The pools, opened and closed with the server; a database that goes away meanwhile is asked again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.marts = _pool(settings, "reader", is_reader=True)
        self.app = _pool(settings, "app", is_reader=False)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Keep the pools open while inside."""
        async with self.marts, self.app:
            yield

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Connection]:
        """Open a connection of the role reader that is nobody else's, in autocommit."""
        credentials = self._settings.credentials("reader")
        async with await psycopg.AsyncConnection.connect(**_parameters(credentials), autocommit=True) as connection:
            yield connection


async def reading(request: Request) -> AsyncIterator[Connection]:
    """Yield a connection to the marts; see above."""
    async with request.app.state.databases.marts.connection() as connection:
        yield connection


async def keeping(request: Request) -> AsyncIterator[Connection]:
    """Yield a connection to schema app; see above."""
    async with request.app.state.databases.app.connection() as connection:
        yield connection


# "function": given back when the route returns, before the answer is sent.
Marts = Annotated[Connection, Depends(reading, scope="function")]
AppState = Annotated[Connection, Depends(keeping, scope="function")]


def _pool(settings: Settings, role: Role, *, is_reader: bool) -> AsyncConnectionPool[Connection]:
    async def configure(connection: Connection) -> None:
        if is_reader:
            await connection.set_read_only(True)
            await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)

    return AsyncConnectionPool(
        kwargs=_parameters(settings.credentials(role)),
        connection_class=Connection,
        configure=configure,
        check=AsyncConnectionPool.check_connection,  # a restarted database is noticed before a route sees it
        min_size=1,
        max_size=MOST_CONNECTIONS,
        timeout=_WAIT_SECONDS,
        reconnect_timeout=_WAIT_SECONDS,  # then the next request tries anew, instead of waiting out a backoff
        open=False,
        name=role,
    )


def _parameters(credentials: Credentials) -> dict[str, Any]:
    return {
        "host": credentials.host,
        "port": credentials.port,
        "user": credentials.user,
        "password": credentials.password or None,
        "dbname": credentials.dbname,
        "sslmode": credentials.sslmode,
        "connect_timeout": 3,
        "application_name": "music-pulse serve",
        "options": f"-c statement_timeout={STATEMENT_SECONDS}s -c idle_in_transaction_session_timeout=60s",
    }
