"""What every request passes before a route sees it, and every answer after: one ASGI middleware.

Security headers on each answer, errors included; on a loopback address only requests that were meant for it (a page of
another site may reach 127.0.0.1 under a name of its own: DNS rebinding); ListenBrainz' tolerance and CORS under /1/;
an unforeseen error as a 500 that says nothing of us; counts and times for Prometheus.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import time
from urllib.parse import unquote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import UNKNOWN, body
from serving.metrics import ServerMetrics

logger = logging.getLogger(__name__)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing inline, nothing from another host."""

SECURITY = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-headers": "Authorization, Content-Type",
    "access-control-max-age": "21600",
    "access-control-expose-headers": "X-RateLimit-Remaining,X-RateLimit-Limit,X-RateLimit-Reset,X-RateLimit-Reset-In",
}
"""As ListenBrainz answers; each path's methods come with it."""

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1", ""})
_SLASHES = re.compile(rb"/{2,}")
_POSTED = "/1/submit-listens"


class Door:
    """The middleware; `host` is the address that the server is bound to."""

    def __init__(self, app: ASGIApp, *, host: str, metrics: ServerMetrics) -> None:
        self._app = app
        self._metrics = metrics
        self._is_local = is_loopback(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # as GET; uvicorn, which goes by its own scope, leaves the body out
            scope = {**scope, "method": "GET"}
        _tolerate_slashes(scope)
        is_listenbrainz = scope["path"].startswith("/1/")
        status = 0
        began = time.perf_counter()

        async def send_dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers.setdefault(name, value)
                if is_listenbrainz:
                    headers.update({**CORS, "access-control-allow-methods": _methods(scope["path"])})
                    for name, value in scope.get("state", {}).get("quota", {}).items():
                        headers[name] = value
                # Without a word browsers keep files for a while, and mix those of two releases.
                headers.setdefault("cache-control", "private" if is_listenbrainz else "no-cache")
            await send(message)

        try:
            if self._is_local and _name_of(Headers(scope=scope).get("host", "")) not in _LOOPBACK_NAMES:
                await _answer(400, "this server answers to 127.0.0.1 and localhost only")(scope, receive, send_dressed)
            elif is_listenbrainz and scope["method"] == "OPTIONS":
                await Response(headers={"allow": _methods(scope["path"])})(scope, receive, send_dressed)
            else:
                await self._app(scope, receive, send_dressed)
        except Exception:
            logger.exception("unforeseen, answering a %s", scope["method"])
            if status:
                raise  # too late for another answer: the connection is cut
            await _answer(500, UNKNOWN)(scope, receive, send_dressed)
        finally:
            self._metrics.answered(scope, status, time.perf_counter() - began)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _answer(status: int, text: str) -> Response:
    return Response(json.dumps(body(status, text)), status, media_type="application/json")


def _name_of(host: str) -> str:
    """Return the name in a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _methods(path: str) -> str:
    return "OPTIONS, POST" if path == _POSTED else "GET, OPTIONS"


def _tolerate_slashes(scope: Scope) -> None:
    """Take `//1//submit-listens` for `/1/submit-listens`; an encoded slash is part of a name."""
    raw: bytes = scope.get("raw_path") or b""
    if b"//" in raw:
        collapsed = _SLASHES.sub(b"/", raw)
        if collapsed.startswith(b"/1/"):
            scope["raw_path"] = collapsed
            scope["path"] = unquote(collapsed.decode("ascii", "replace"))
