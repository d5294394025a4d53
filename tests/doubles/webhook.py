"""A local HTTP server that takes JSON by POST, as Slack, Telegram and webhooks do, or what `read` reads; remembers it.

with WebhookDouble() as receiver:
    receiver.statuses.append(503)  # what the next requests get; then 200
    ...
    receiver.received  # [(path, body)]
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class WebhookDouble:
    """The server; a context manager."""

    def __init__(self, read: Callable[[bytes], Any] = json.loads) -> None:
        self.received: list[tuple[str, Any]] = []
        self.statuses: list[int] = []
        self.react: Callable[[Any], None] = lambda _: None
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                double.received.append((self.path, read(body)))
                double.react(double.received[-1][1])
                self.send_response(double.statuses.pop(0) if double.statuses else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Keep the tests' output clean."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
