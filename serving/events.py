"""`/api/events`: tells open pages when to ask again, by Server-Sent Events.

NOTIFY of the trending sink (or a look every few seconds) --one listener a process--> all pages

| event | data | when |
|---|---|---|
| `trending` | a number that changes | a batch of the trending job was committed, or a window has ended |
| `marts` | the version of the marts | a build changed them |
| `database` | `up` or `down` | the database went away, or came back |

Events say that something changed, not what: a page that missed some asks once and is up to date. So all of them are
sent anew after each reconnect, of the page or of the listener.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from serving.database import Databases
from serving.errors import UNBUILT

logger = logging.getLogger(__name__)

router = APIRouter()

T = TypeVar("T")

CHANNEL = "trending"
"""What the trending sink notifies (`streaming.trending_sink.CHANNEL`)."""
LOOK_SECONDS = 5.0
"""A look at the database without a notification: for windows that end, for builds, and for lost notifications."""
HEARTBEAT_SECONDS = 15.0
"""A comment, so that neither end takes a quiet connection for a dead one."""
RETRY_SECONDS = 1.0
END_SECONDS = 2.0

# The range lets the index find the newest window.
_LOOK = """
    select
        (select version from marts.freshness),
        (
            select max(window_start)
            from marts.trending_history
            where window_start > now() - interval '1 hour' and window_end <= now()
        )
"""


class Events:
    """One listener for all pages of a process; it listens as long as a page is open."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases
        self._pages: set[asyncio.Queue[tuple[str, str] | None]] = set()
        self._latest: dict[str, str] = {}
        self._batches = 0
        self._is_closed = False
        self._task: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    async def subscribe(self) -> AsyncIterator[tuple[str, str] | None]:
        """Yield what is known and then what changes, as (event, data); None after a quiet time."""
        queue: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue()
        for event in self._latest.items():
            queue.put_nowait(event)
        self._pages.add(queue)
        if self._task is None:
            self._task = asyncio.create_task(self._listen())
        try:
            while not self._is_closed:
                try:
                    yield await asyncio.wait_for(queue.get(), HEARTBEAT_SECONDS)
                except TimeoutError:
                    yield None
        finally:
            self._pages.discard(queue)
            if not self._pages and self._task is not None:
                self._task.cancel()
                self._leaving.add(self._task)
                self._task.add_done_callback(self._leaving.discard)
                self._task, self._latest = None, {}

    def close(self) -> None:
        """End all streams: the server stops, and would wait for their pages to leave."""
        self._is_closed = True
        for queue in self._pages:
            queue.put_nowait(None)

    async def ended(self) -> None:
        """Wait for listeners that nobody needs any more, for a moment: what is asked for then is cancelled."""
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*self._leaving, return_exceptions=True), END_SECONDS)

    def _tell(self, event: str, data: str) -> None:
        if self._latest.get(event) != data:
            self._latest[event] = data
            for queue in self._pages:
                queue.put_nowait((event, data))

    async def _listen(self) -> None:
        while True:
            try:
                async with self._databases.listening() as connection:
                    await _to_the_end(connection.execute(f"listen {CHANNEL}".encode()))
                    self._batches += 1  # some may have been missed
                    self._tell("database", "up")
                    while True:
                        await self._look(connection)
                        async for _ in connection.notifies(timeout=LOOK_SECONDS, stop_after=1):
                            self._batches += 1
            except psycopg.Error as error:
                logger.debug("events wait for the database: %s", error)
                self._tell("database", "down")
                await asyncio.sleep(RETRY_SECONDS)

    async def _look(self, connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
        with suppress(*UNBUILT):
            cursor = await _to_the_end(connection.execute(_LOOK))
            version, window = await cursor.fetchone() or (None, None)
            self._tell("marts", str(version))
            self._tell("trending", f"{self._batches} {window}")


async def _to_the_end(statement: Coroutine[Any, Any, T]) -> T:
    """Be cancelled after a statement, not in it: psycopg would have the server cancel it, and warns where it can't."""
    running = asyncio.ensure_future(statement)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.gather(running, return_exceptions=True)
        raise


@router.get("/events", response_class=StreamingResponse, responses={200: {"content": {"text/event-stream": {}}}})
async def events(request: Request) -> StreamingResponse:
    """Tell when to ask again: `trending`, `marts`, `database`."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(request.app.state.events), media_type="text/event-stream", headers=headers)


async def _stream(source: Events) -> AsyncIterator[str]:
    yield "retry: 1000\n\n"
    async for event in source.subscribe():
        yield f"event: {event[0]}\ndata: {event[1]}\n\n" if event else ": still here\n\n"
