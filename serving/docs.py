"""A static folder -> http://127.0.0.1: the dbt docs site."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from music_pulse.errors import PulseError


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""

    def list_directory(self, path: Any) -> None:
        """Show no folders."""
        self.send_error(404)


def serve(folder: Path, port: int) -> ThreadingHTTPServer:
    """Bind a server of `folder` to 127.0.0.1; port 0 takes a free one. Raises `PulseError` where it is taken."""
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise PulseError(f"port {port} on 127.0.0.1: {error.strerror}; choose another with --port") from error
