"""The server of `pulse serve` in a thread, on a free port."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import requests
import uvicorn

from music_pulse.settings import Settings
from serving.app import Ingest, create_app
from serving.server import address_of, bound_socket, configuration


class Site(NamedTuple):
    """A running server, its warehouse, and a token of user `ann`."""

    address: str
    settings: Settings
    token: str

    def get(self, path: str, **options: Any) -> requests.Response:
        """Ask."""
        return requests.get(self.address + path, timeout=30, **options)

    def submit(self, body: Any, *, token: str | None = None, path: str = "/1/submit-listens", **options: Any) -> Any:
        """Send a submission: bytes as they are, anything else as JSON."""
        headers = {"Authorization": f"Token {token or self.token}", **options.pop("headers", {})}
        content = {"data": body} if isinstance(body, bytes) else {"json": body}
        return requests.post(self.address + path, headers=headers, timeout=60, **content, **options)


Serve = Callable[..., AbstractContextManager[Site]]
"""Serves the same warehouse with other settings, or another place where listens go."""


@contextmanager
def running(settings: Settings, into: Ingest) -> Iterator[str]:
    """Serve while inside; yield the address."""
    with bound_socket("127.0.0.1", 0) as bound:
        app = create_app(settings, into, settings.home / "dbt" / settings.postgres_dbname)
        server = uvicorn.Server(configuration(app))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server didn't start"
                time.sleep(0.02)
            yield address_of(bound)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()
