"""The server of `pulse serve` in a thread, on a free port."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from music_pulse.settings import Settings
from serving.app import Ingest, create_app
from serving.server import Protocol, address_of, bound_socket


@contextmanager
def running(settings: Settings, into: Ingest) -> Iterator[str]:
    """Serve while inside; yield the address."""
    with bound_socket("127.0.0.1", 0) as bound:
        app = create_app(settings, into, settings.home / "dbt" / settings.postgres_dbname)
        config = uvicorn.Config(
            app, http=Protocol, ws="none", lifespan="on", log_config=None, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
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
