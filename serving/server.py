"""The app on a socket: uvicorn, with an end for clients that are slow or greedy."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from music_pulse.errors import ConfigurationError

logger = logging.getLogger(__name__)

HEADER_SECONDS = 10.0
"""How long a request's head may take to come."""

HEADER_BYTES = 65_536
BODY_SECONDS = 30.0
"""How long a body may take to come, also one that no route reads; who reads one may be stricter, and say so."""

WRITE_SECONDS = 30.0
"""How long a client may leave an answer unread."""

CONNECTIONS = 512
_KEEP_ALIVE_SECONDS = 15
_STOP_SECONDS = 3


class Protocol(HttpToolsProtocol):
    """HTTP/1.1 that cuts off who takes too long to ask or to read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request's head."""
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Bound the head, whose end the parser tells."""
        if self._head_bytes >= 0:
            if self._reading is None:
                self._expect_head()
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > HEADER_BYTES:
            self._cut("a head without end")

    def on_headers_complete(self) -> None:
        """The head is there: wait for the body."""
        self._head_bytes = -1
        _stop(self._reading)
        self._reading = self.loop.call_later(BODY_SECONDS, self._cut, "a body too slow")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Stop the clock: what comes now is the next head."""
        self._head_bytes = 0
        _stop(self._reading)
        self._reading = None
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client doesn't read: start the clock."""
        super().pause_writing()
        self._writing = self._writing or self.loop.call_later(WRITE_SECONDS, self._cut, "an answer left unread")

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        _stop(self._writing)
        self._writing = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop both clocks."""
        _stop(self._reading)
        _stop(self._writing)
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._reading = self.loop.call_later(HEADER_SECONDS, self._cut, "a head too slow")

    def _cut(self, why: str) -> None:
        logger.debug("a connection is cut off: %s", why)
        self.transport.abort()


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def bound_socket(host: str, port: int) -> socket.socket:
    """Bind, port 0 to a free one. Raises `ConfigurationError` where that can't be."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise ConfigurationError(
            f"can't serve on {host}:{port}: {error.strerror}; choose others with --host and --port"
        ) from error
    return bound


def address_of(bound: socket.socket) -> str:
    """Return where a browser finds what is served on a socket."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def configuration(app: FastAPI) -> uvicorn.Config:
    """Return how uvicorn serves the app."""
    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # addresses name people
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )


def serve(app: FastAPI, bound: socket.socket, on_started: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; then finish what is being answered."""
    _Server(app, on_started).run(sockets=[bound])


class _Server(uvicorn.Server):
    def __init__(self, app: FastAPI, on_started: Callable[[], None]) -> None:
        super().__init__(configuration(app))
        self._app = app
        self._on_started = on_started

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at a signal, and go on after `serve`: uvicorn would raise the signal anew, and leave Postgres up."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {name: signal.signal(name, self.handle_exit) for name in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.events.close()
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()
