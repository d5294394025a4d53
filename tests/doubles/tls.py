"""The TLS end of a Postgres that has none: what providers put before theirs. Talks TLS, hands on what it hears.

with TlsEnd(certificate_and_key, port_of_postgres) as end:
    end.port
"""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

REQUEST = bytes.fromhex("0000000804d2162f")
"""Postgres' SSLRequest."""


class TlsEnd:
    """The server; a context manager. Who doesn't ask for TLS is hung up on."""

    def __init__(self, certificate: Path, postgres_port: int) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                if self.request.recv(len(REQUEST)) != REQUEST:
                    return
                self.request.sendall(b"S")
                try:
                    client = context.wrap_socket(self.request, server_side=True)
                except OSError:  # who asks doesn't trust us
                    return
                with client, socket.create_connection(("127.0.0.1", postgres_port)) as server:
                    answers = threading.Thread(target=_copy, args=(server, client))
                    answers.start()
                    _copy(client, server)
                    answers.join()

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:  # one of the two has gone
        pass
