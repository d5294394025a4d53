"""A local HTTP server that answers as ListenBrainz does, traps and faults included.

    with ListenBrainzDouble() as api:
        api.add("rob", [listen(1_600_000_000), listen(1_600_000_060, "Can", "Vitamin C")])
        api.faults.append(Fault("status", 503))
        ...  # ask api.url; then look at api.requests

What it copies of the real server: both bounds are exclusive; a page is shown newest first, but with `min_ts`
holds the *oldest* `count` rows; ties come in no defined order; `min_ts` alone, more than 30 days before the
first listen, finds nothing; without `min_ts` the search widens (30, 90, 270 ... days) and misses a listen
exactly on a border; `count` is silently clamped to 1000. With `caches` on, a count is cached for 5 minutes and a page
of given bounds for an hour, or until listens of the user are added: deletions don't show in either before.
"""

from __future__ import annotations

import io
import json
import os
import re
import socket
import socketserver
import struct
import sys
import threading
import time
import uuid
import zlib
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from doubles import metadata

MAX_ITEMS_PER_GET = 1000
DEFAULT_ITEMS_PER_GET = 25
FETCH_WINDOW_S = 30 * 86_400
FETCH_PASSES = 9
PAGE_CACHE_S = 3600
COUNT_CACHE_S = 300
MSID_NAMESPACE = uuid.UUID("5b5e2f0a-6b3c-4d52-9a53-0f6a0f2f3d11")
TOO_MANY = (
    "You have exceeded your rate limit. See the X-RateLimit-* response headers for more information on your "
    "current rate limit."
)

_ENDPOINT = re.compile(r"/1/user/([^/]+)/(listens|listen-count)\Z")


@dataclass(frozen=True)
class Fault:
    """What one request gets instead of its answer.

    `status`: that status with `body` and just these `headers` (no rate limit's). `cut`: half of the right
    answer after a whole Content-Length; `cut_chunked`: the same, chunked. `reset`: a TCP reset. `hang`: no
    answer until the double is closed. `invalid_json`, `other_shape`: status 200 with `body`, or a default.
    """

    kind: Literal["status", "cut", "cut_chunked", "reset", "hang", "invalid_json", "other_shape"]
    status: int = 500
    body: Any = None
    """Bytes and text are sent as they are, anything else as JSON."""
    headers: Mapping[str, str] = field(default_factory=dict)


class FakeTime:
    """A clock that only `sleep` moves: pass `time.sleep` to the client and the object itself as its clock."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Go on by `seconds` at once."""
        self.slept.append(seconds)
        self.now += seconds


class _Answer(NamedTuple):
    status: int
    body: bytes
    headers: Mapping[str, str]


class _Refused(Exception):
    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


class _Row(NamedTuple):
    at: int
    number: int
    body: dict[str, Any]


@dataclass
class _User:
    name: str
    rows: list[_Row] = field(default_factory=list)
    keys: set[tuple[int, str]] = field(default_factory=set)


class ListenBrainzDouble:
    """The server; a context manager. All methods may be called while it answers.

    `requests`: (path, query) of each request so far; `authorizations`: its header, or None. `rate_limit`:
    (requests, seconds of a window) or None. `token`: if set, others get 401. `faults`: each one answers one
    request. `fault`: a function (index, path, query) -> Fault or None, asked before `faults`. `miscount`: what is
    added to a user's count, by lower-case name. `recordings`: metadata by MBID (see `metadata.recording`).
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self.clear()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def clear(self) -> None:
        """Forget everything: as new."""
        with self._lock:
            self.requests: list[tuple[str, dict[str, str]]] = []
            self.authorizations: list[str | None] = []
            self.rate_limit: tuple[int, int] | None = None
            self.token: str | None = None
            self.faults: list[Fault] = []
            self.fault: Callable[[int, str, dict[str, str]], Fault | None] | None = None
            self.caches = False
            self.miscount: dict[str, int] = {}
            self.recordings: dict[str, Any] = {}
            self._cache: dict[tuple[str, str, str], tuple[float, Any]] = {}
            self._users: dict[str, _User] = {}
            self._numbers = 0
            self._quota_window = -1
            self._quota_used = 0

    def add(self, user: str, listens: Iterable[dict[str, Any]] = ()) -> int:
        """Store listens as submitted (an empty list makes a user without any); return how many are new.

        The first listen of (listened_at, user, recording_msid) wins. Names of users differ by more than case.
        """
        with self._lock:
            owner = self._users.setdefault(user.lower(), _User(user))
            self._cache = {key: kept for key, kept in self._cache.items() if key[:2] != (user.lower(), "listens")}
            new = 0
            for submitted in listens:
                body = _stored(submitted, owner.name)
                key = (body["listened_at"], body["recording_msid"])
                if key not in owner.keys:
                    owner.keys.add(key)
                    self._insert(owner, key[0], body)
                    new += 1
            return new

    def add_raw(self, user: str, row: dict[str, Any], at: int | None = None) -> None:
        """Put `row` into pages exactly as given, at the second `at` (default: its own `listened_at`)."""
        place = row.get("listened_at") if at is None else at
        if type(place) is not int:
            raise ValueError("a row without a whole listened_at needs `at`")
        with self._lock:
            self._insert(self._users.setdefault(user.lower(), _User(user)), place, row)

    def remove(self, user: str, listened_at: int, recording_msid: str | None = None) -> int:
        """Delete what was listened to (or put) at that second, all or one; return how many."""
        with self._lock:
            owner = self._users[user.lower()]
            gone = [
                row
                for row in owner.rows
                if row.at == listened_at and recording_msid in (None, row.body.get("recording_msid"))
            ]
            owner.rows = [row for row in owner.rows if row not in gone]
            owner.keys -= {(row.at, row.body.get("recording_msid", "")) for row in gone}
            return len(gone)

    def edit(self, user: str, listened_at: int, **metadata: Any) -> None:
        """Change the track_metadata of what was listened to at that second, as a manual mapping does."""
        with self._lock:
            owner = self._users[user.lower()]
            owner.rows = [
                row._replace(body={**row.body, "track_metadata": {**row.body["track_metadata"], **metadata}})
                if row.at == listened_at
                else row
                for row in owner.rows
            ]

    def wipe(self, user: str) -> None:
        """Delete a whole history; the user stays."""
        with self._lock:
            owner = self._users[user.lower()]
            owner.rows, owner.keys = [], set()

    def rename(self, user: str, new: str) -> None:
        """Give a user another name: there is none of the old name afterwards."""
        with self._lock:
            owner = self._users.pop(user.lower())
            owner.name = new
            owner.rows = [row._replace(body={**row.body, "user_name": new}) for row in owner.rows]
            self._users[new.lower()] = owner

    def rows(self, user: str) -> list[dict[str, Any]]:
        """Return all that pages may show of `user`, oldest first."""
        with self._lock:
            return [row.body for row in self._users[user.lower()].rows]

    def _insert(self, owner: _User, at: int, body: dict[str, Any]) -> None:
        self._numbers += 1
        insort(owner.rows, _Row(at, self._numbers, body), key=lambda row: row.at)

    def _next_fault(self, path: str, query: dict[str, str], authorization: str | None) -> Fault | None:
        """Note the request; return the fault that is its due."""
        with self._lock:
            index = len(self.requests)
            self.requests.append((path, query))
            self.authorizations.append(authorization)
            fault = self.fault(index, path, query) if self.fault else None
            return fault or (self.faults.pop(0) if self.faults else None)

    def _answer(self, path: str, query: dict[str, str], authorization: str | None) -> _Answer:
        with self._lock:
            headers, over = self._quota()
            try:
                if over:
                    raise _Refused(429, TOO_MANY)
                if self.token is not None and authorization not in (None, f"Token {self.token}"):
                    raise _Refused(401, "Invalid authorization token.")
                if path == "/1/metadata/recording/":
                    found = metadata.answer(self.recordings, query)
                    if isinstance(found, str):
                        raise _Refused(400, found)
                    return _Answer(200, _json(found), headers)
                return _Answer(200, _json({"payload": self._payload(path, query)}), headers)
            except _Refused as error:
                return _Answer(error.status, _json({"code": error.status, "error": str(error)}), headers)

    def _quota(self) -> tuple[dict[str, str], bool]:
        """Count a request in its window, aligned to the epoch; return the headers, and if it is over."""
        if self.rate_limit is None:
            return {}, False
        limit, length = self.rate_limit
        now = int(self.clock())
        window = now // length
        if window != self._quota_window:
            self._quota_window, self._quota_used = window, 0
        self._quota_used += 1
        reset = (window + 1) * length
        headers = {
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": str(max(limit - self._quota_used, 0)),
            "X-RateLimit-Reset": str(reset),
            "X-RateLimit-Reset-In": str(reset - now),
        }
        return headers, self._quota_used > limit

    def _payload(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        match = _ENDPOINT.match(path)
        if match is None:
            raise _Refused(404, "Not Found")
        name = unquote(match[1])
        user = self._users.get(name.lower())
        if user is None:
            raise _Refused(404, f"Cannot find user: {name}")
        key = (name.lower(), match[2], str(sorted(query.items())))
        expires, payload = self._cache.get(key, (0.0, None))
        if not self.caches or self.clock() >= expires:
            payload = self._fresh_payload(user, name, match[2], query)
            age = PAGE_CACHE_S if match[2] == "listens" else COUNT_CACHE_S
            self._cache[key] = (self.clock() + age, payload)
        return dict(payload)

    def _fresh_payload(self, user: _User, name: str, endpoint: str, query: dict[str, str]) -> dict[str, Any]:
        if endpoint == "listen-count":
            return {"count": len(user.rows) + self.miscount.get(name.lower(), 0)}
        after, before = _timestamp(query, "min_ts"), _timestamp(query, "max_ts")
        if after is not None and before is not None and before <= after:
            raise _Refused(400, "max_ts should be greater than min_ts")
        salt = str(sorted(query.items()))
        listens = [row.body for row in _fetch(user.rows, after, before, _count(query), salt)]
        return {
            "count": len(listens),
            "user_id": name,
            "latest_listen_ts": user.rows[-1].at if user.rows else 0,
            "oldest_listen_ts": user.rows[0].at if user.rows else 0,
            "listens": listens,
        }


def listen(
    ts: int, artist: str = "Artist", track: str = "Track", *, album: str | None = None, **info: Any
) -> dict[str, Any]:
    """Make a listen as a client submits it; `info` is its additional_info."""
    metadata: dict[str, Any] = {"artist_name": artist, "track_name": track, "additional_info": info}
    if album is not None:
        metadata["release_name"] = album
    return {"listened_at": ts, "track_metadata": metadata}


def _stored(submitted: dict[str, Any], user_name: str) -> dict[str, Any]:
    """Return a submitted listen as the API shows it."""
    metadata = dict(submitted["track_metadata"])
    if not (metadata.get("release_name") or "").strip():
        metadata.pop("release_name", None)
    msid = submitted.get("recording_msid") or _msid(metadata)
    metadata["additional_info"] = {**(metadata.get("additional_info") or {}), "recording_msid": msid}
    return {
        "listened_at": submitted["listened_at"],
        "inserted_at": submitted.get("inserted_at", submitted["listened_at"]),
        "recording_msid": msid,
        "user_name": user_name,
        "track_metadata": metadata,
    }


def _msid(metadata: dict[str, Any]) -> str:
    info = metadata.get("additional_info") or {}
    names = [metadata["track_name"], metadata["artist_name"], metadata.get("release_name")]
    names.append(info.get("track_number"))
    duration = info.get("duration_ms")
    if duration is None and info.get("duration") is not None:
        duration = int(info["duration"]) * 1000
    parts = [None if name is None else str(name).lower() for name in names]
    return str(uuid.uuid5(MSID_NAMESPACE, json.dumps([*parts, duration])))


def _fetch(rows: list[_Row], after: int | None, before: int | None, count: int, salt: str) -> list[_Row]:
    """Return a page, newest first. `salt` settles the order of ties: the same for equal queries only."""

    def between(low: int, high: int) -> list[_Row]:
        part = rows[bisect_right(rows, low, key=_at) : bisect_left(rows, high, key=_at)]
        return sorted(part, key=lambda row: (row.at, zlib.crc32(f"{salt}{row.number}".encode())))

    if not rows or count == 0:
        return []
    if after is not None and before is not None:
        return between(after, before)[:count][::-1]
    found: list[_Row] = []
    width = FETCH_WINDOW_S
    if after is not None:
        low, high = after, after + width
        for _ in range(FETCH_PASSES):
            found += between(low, high)
            # The first trap: the search ends here, if it began well before the first listen.
            if len(found) >= count or low < rows[0].at - 1 or high > rows[-1].at:
                break
            width *= 3
            low, high = high - 1, high + width
        return found[:count][::-1]
    high = rows[-1].at + 1 if before is None else before
    low = high - width
    for _ in range(FETCH_PASSES):
        found += between(low, high)[::-1]
        if len(found) >= count or low < rows[0].at - 1:
            break
        width *= 3
        # Both windows are open at `low`: a listen at that second is in neither.
        low, high = low - width, low
    return found[:count]


def _at(row: _Row) -> int:
    return row.at


def _timestamp(query: dict[str, str], name: str) -> int | None:
    if name not in query:
        return None
    try:
        return int(query[name])
    except ValueError:
        raise _Refused(400, f"Incorrect {name} timestamp argument: {query[name]}") from None


def _count(query: dict[str, str]) -> int:
    text = query.get("count") or str(DEFAULT_ITEMS_PER_GET)
    try:
        count = int(text)
    except ValueError:
        raise _Refused(400, f"Invalid count argument: {text}") from None
    if count < 0:
        raise _Refused(400, "Number of items requested should be positive")
    return min(count, MAX_ITEMS_PER_GET)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()  # ASCII only: NUL and lone surrogates travel escaped


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, double: ListenBrainzDouble) -> None:
        self.double = double
        super().__init__(("127.0.0.1", 0), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's would look up the host's name

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # the client went away: expected after a time-out
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = io.DEFAULT_BUFFER_SIZE
    timeout = 60
    server: _Server

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        authorization = self.headers.get("Authorization")
        double = self.server.double
        fault = double._next_fault(parts.path, query, authorization)
        if fault is None:
            self._send(double._answer(parts.path, query, authorization))
        elif fault.kind == "hang":
            double._closing.wait(60)
            self.close_connection = True
        elif fault.kind == "reset":
            self._reset()
        elif fault.kind in ("cut", "cut_chunked"):
            answer = double._answer(parts.path, query, authorization)
            self._cut(answer, chunked=fault.kind == "cut_chunked")
        else:
            self._send(_faulty(fault))

    def _send(self, answer: _Answer) -> None:
        headers = {"Content-Type": "application/json", **answer.headers}
        self._start(answer.status, {**headers, "Content-Length": str(len(answer.body))})
        self.wfile.write(answer.body)

    def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _cut(self, answer: _Answer, *, chunked: bool) -> None:
        half = answer.body[: len(answer.body) // 2]
        if chunked:
            self._start(answer.status, {**answer.headers, "Transfer-Encoding": "chunked"})
            self.wfile.write(b"%x\r\n%s\r\n" % (len(half), half))
        else:
            self._start(answer.status, {**answer.headers, "Content-Length": str(len(answer.body))})
            self.wfile.write(half)
        self.close_connection = True

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())  # close() would wait for the files made of the socket
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output clean."""


def _faulty(fault: Fault) -> _Answer:
    status, body = 200, fault.body
    if fault.kind == "status":
        status = fault.status
        if body is None:
            body = {"code": status, "error": "An unknown error occured."}
    elif body is None and fault.kind == "invalid_json":
        body = b'{"payload": {"listens": [{"listened_at": 1'
    elif body is None:
        body = ["unexpected"]
    if isinstance(body, str):
        body = body.encode()
    return _Answer(status, body if isinstance(body, bytes) else _json(body), fault.headers)
