"""An emulator of Google Cloud Storage, for tests."""

from __future__ import annotations

import http.server
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch
from urllib.parse import quote

import requests
from gcp_storage_emulator.server import create_server


class GoogleBucket:
    """One bucket, `histories`, at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def put(self, name: str, content: bytes) -> None:
        """Write an object."""
        address = f"{self.url}/upload/storage/v1/b/histories/o?uploadType=media&name={quote(name, safe='')}"
        answer = requests.post(address, content, headers={"Content-Type": "application/octet-stream"}, timeout=10)
        answer.raise_for_status()


@contextmanager
def google_bucket() -> Iterator[GoogleBucket]:
    """Run the emulator on a free port of this machine."""
    # Its own server takes one connection at a time; Google's client keeps several open.
    with patch.object(http.server, "HTTPServer", http.server.ThreadingHTTPServer):
        server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="histories")
        server.start()
    try:
        yield GoogleBucket(f"http://127.0.0.1:{server._api._httpd.server_address[1]}")
    finally:
        server.stop()
