"""A schema registry that takes every schema: what Confluent's API asks for to register one and to read it by its id."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        """`/subjects/<subject>/versions`: the schema's id, the same for the same text."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            if asked["schema"] not in self.server.schemas:
                self.server.schemas.append(asked["schema"])
            self._answer(200, {"id": self.server.schemas.index(asked["schema"]) + 1})

    def do_GET(self) -> None:
        """`/schemas/ids/<id>`."""
        schema_id = int(self.path.split("?")[0].rsplit("/", 1)[1])
        if schema_id > len(self.server.schemas):
            self._answer(404, {"error_code": 40403, "message": "Schema not found"})
        else:
            self._answer(200, {"schema": self.server.schemas[schema_id - 1]})

    def _answer(self, status: int, answer: Any) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.schemas: list[str] = []


@contextmanager
def registry() -> Iterator[str]:
    """Yield the address of one that serves while inside."""
    server = _Server()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
