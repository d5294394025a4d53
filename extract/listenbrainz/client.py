"""The ListenBrainz API, read so that nothing is lost: bounded pages, its rate limit, retries.

user, window of seconds -> pages of listens as the API sent them

A page of a range holds the *oldest* listens in it, listens of one second come in no defined order, and both
bounds are exclusive. So a page is followed by the one that begins with the last second of it: that second is
read again whole, and the rows that were there already are dropped.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote, urlencode
from uuid import UUID

import requests
from requests import exceptions
from urllib3.exceptions import HTTPError, NewConnectionError

from extract.listenbrainz.windows import Interval
from music_pulse import __version__
from music_pulse.errors import ConfigurationError, ExternalAPIError, UnknownUserError, UnreachableAPIError
from music_pulse.listens import from_json, to_json

logger = logging.getLogger(__name__)

MAX_PAGE_SIZE = 1000
"""Rows of one page; the API silently answers fewer than asked beyond it, which would look like the end."""

MAX_BACKOFF_S = 60.0
MAX_QUOTA_WAIT_S = 300.0
"""Longest wait, in seconds, that a rate-limit header may impose (ListenBrainz' own windows last 10 s)."""

CONNECT_ATTEMPTS = 3
"""Tries after which an API that never could be connected to counts as unreachable."""

_AGAIN = "run again later: it goes on where it stopped"
_CHECK_URL = "check PULSE_LISTENBRAINZ_URL, or run again later"
_USER_INFO = re.compile(r"//[^/\s@]*@")
_LAST_PRINTABLE_S = 253_402_300_799

T = TypeVar("T")


class Bounds(NamedTuple):
    """A user's canonical name, and the first and last second with a listen; 0 and 0 without listens."""

    user_name: str
    oldest_ts: int
    latest_ts: int


class _Retryable(Exception):
    """One try that failed and may be repeated; the text says what happened, in a phrase."""

    def __init__(self, what: str, advice: str, *, status: int | None = None) -> None:
        super().__init__(what)
        self.advice = advice
        self.status = status


class ListenBrainzClient:
    """Reads users' listens; one client, with one connection and one quota, serves a whole run.

    Times are in seconds. Every method raises `ExternalAPIError` when `attempts` tries of a request failed,
    `UnreachableAPIError` when the API never could be connected to, and `UnknownUserError`. Not thread-safe.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        connect_timeout: float = 10.0,
        read_timeout: float = 60.0,
        attempts: int = 6,
        page_size: int = MAX_PAGE_SIZE,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`url` is the API's root; `page_size` must be 2 to 1000. `ConfigurationError` for a bad token."""
        if not 2 <= page_size <= MAX_PAGE_SIZE:
            raise ValueError(f"page_size must be from 2 to {MAX_PAGE_SIZE}")
        if attempts < 1:
            raise ValueError("attempts must be at least 1")
        self._url = url.rstrip("/")
        self._token = _checked(token)
        self._timeouts = (connect_timeout, read_timeout)
        self._attempts = attempts
        self._page_size = page_size
        self._sleep = sleep
        self._clock = clock
        self._resume_at: float | None = None
        self._connected = False
        self.requests = 0
        """Requests made so far, repeated ones included."""
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"music-pulse/{__version__}"
        self._session.headers["Accept"] = "application/json"
        # Set even without a token: requests would otherwise send what ~/.netrc has for this host.
        self._session.auth = self._authorize

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def listen_count(self, user: str) -> int:
        """Return how many listens ListenBrainz reports for `user`; up to 5 minutes old."""
        return self._get(user, "listen-count", {}, lambda payload: _integer(payload, "count"))

    def bounds(self, user: str) -> Bounds:
        """Return the canonical name of `user` (matched ignoring case) and the ends of the history."""
        return self._get(user, "listens", {"count": 1}, lambda payload: _bounds(payload, user))

    def recordings(self, mbids: Sequence[UUID]) -> dict[str, Any]:
        """Return the metadata of recordings, as sent, by MBID; those that ListenBrainz doesn't know are left out."""
        query = urlencode({"recording_mbids": ",".join(map(str, mbids)), "inc": "artist tag release"}, safe=",")
        return self._ask(f"{self._url}/1/metadata/recording/?{query}", None, lambda answer: answer)

    def pages(self, user: str, window: Interval) -> Iterator[list[dict[str, Any]]]:
        """Yield every listen of `user` in `window`, each once, as sent: page by page, oldest page first.

        A listen whose `listened_at` is no whole number is yielded, too. Raises `ExternalAPIError` also when
        one second has more listens than fit a page, since the API can't page inside a second.
        """
        start, end = window
        after = start - 1
        repeats: Counter[object] = Counter()
        while after + 1 < end:
            page = self._page(user, after, end)
            fresh = _without(page, repeats, second=after + 1)
            if fresh:
                yield fresh
            if len(page) < self._page_size:
                return
            last = self._last_second(user, page, after, end)
            repeats = Counter(_key(row) for row in page if _second(row) in (last, None))
            after = last - 1

    def _page(self, user: str, after: int, before: int) -> list[dict[str, Any]]:
        """Read the oldest listens with after < listened_at < before, at most a page."""
        params = {"min_ts": after, "max_ts": before, "count": self._page_size}
        page = self._get(user, "listens", params, _listens)
        for second in map(_second, page):
            if second is not None and not after < second < before:
                url = self._address(user, "listens", params)
                raise self._error(
                    ExternalAPIError,
                    f"ListenBrainz answered rows outside the range asked for (one at {_utc(second)}): {url}; "
                    "report it to ListenBrainz, or run again in an hour, when its cache is renewed",
                    url,
                    200,
                )
        return page

    def _last_second(self, user: str, page: list[dict[str, Any]], after: int, before: int) -> int:
        """Return the newest second of a full page; it must be later than the first one asked for."""
        last = max((second for second in map(_second, page) if second is not None), default=None)
        if last is not None and last > after + 1:
            return last
        url = self._address(user, "listens", {"min_ts": after, "max_ts": before, "count": self._page_size})
        if last is None:
            what = f"{len(page)} listens in a row without a usable time, after {_utc(after)}"
        else:
            what = f"{len(page)} listens or more in the one second {_utc(last)}"
        raise self._error(
            ExternalAPIError,
            f"user {user!r} has {what}: ListenBrainz can't page within a second ({url}); "
            "delete the surplus there, or read only what is later (--since)",
            url,
            200,
        )

    def _get(self, user: str, endpoint: str, params: dict[str, int], read: Callable[[dict[str, Any]], T]) -> T:
        """Ask for something of a user until `read` accepts the payload."""
        return self._ask(self._address(user, endpoint, params), user, lambda answer: read(_payload(answer)))

    def _ask(self, url: str, user: str | None, read: Callable[[dict[str, Any]], T]) -> T:
        """Ask until `read` accepts the answer, at most `attempts` times."""
        attempt = 0
        while True:
            attempt += 1
            self._wait_for_quota()
            try:
                return read(self._answer(url, user))
            except _Retryable as failure:
                tries = self._attempts if self._connected else min(self._attempts, CONNECT_ATTEMPTS)
                if attempt >= tries:
                    raise self._given_up(failure, url, attempt) from failure.__cause__
                self._back_off(failure, attempt, tries)

    def _answer(self, url: str, user: str | None) -> dict[str, Any]:
        """Make one request; return its answer, a JSON object."""
        self.requests += 1
        try:
            response = self._session.get(url, timeout=self._timeouts)
        except (exceptions.RequestException, HTTPError) as error:  # urllib3's own: host names that are none
            raise self._judged(error, url) from error
        self._connected = True
        self._note_quota(response)
        if response.status_code == 429:
            raise _Retryable("status 429, too many requests from this address", _AGAIN, status=429)
        if response.status_code >= 500:
            what = f"status {response.status_code}{_explained(response)}"
            raise _Retryable(what, _AGAIN, status=response.status_code)
        if response.status_code >= 300:
            raise self._refused(response, url, user)
        return _decoded(response)

    def _judged(self, error: Exception, url: str) -> Exception:
        """Tell whether a request that got no whole answer may be repeated, and if there was a connection."""
        if isinstance(error, exceptions.ConnectTimeout):
            what = f"no connection within {self._timeouts[0]:g} s"
            return _Retryable(what, "check the network and PULSE_LISTENBRAINZ_URL")
        if isinstance(error, exceptions.ConnectionError):
            reason = getattr(error.args[0], "reason", None) if error.args else None
            if isinstance(reason, NewConnectionError) or isinstance(error, exceptions.ProxyError):
                words = str(reason or error).rpartition(": ")[2].rstrip("')")
                what = f"no connection: {words}{')' if '(' in words else ''}"
                return _Retryable(what, "check the network and PULSE_LISTENBRAINZ_URL")
        self._connected = True
        if isinstance(error, exceptions.SSLError):
            return _Retryable("no secure connection (TLS)", "check the clock and PULSE_LISTENBRAINZ_URL")
        if isinstance(error, exceptions.Timeout) or "Read timed out" in str(error):
            what = f"nothing sent for {self._timeouts[1]:g} s"
            return _Retryable(what, f"{_AGAIN}, or raise PULSE_LISTENBRAINZ_READ_TIMEOUT")
        if isinstance(error, (exceptions.ChunkedEncodingError, exceptions.ContentDecodingError)):
            return _Retryable("the answer was cut off", _AGAIN)
        if isinstance(error, exceptions.ConnectionError):
            return _Retryable("the connection was closed before the answer", _AGAIN)
        what = f"{url} can't be asked ({type(error).__name__}): check PULSE_LISTENBRAINZ_URL"
        return self._error(ExternalAPIError, what, url, None)

    def _refused(self, response: requests.Response, url: str, user: str | None) -> ExternalAPIError:
        """Make the error of an answer that another try won't change."""
        status = response.status_code
        explained = _explained(response)
        if status == 404 and explained and user is not None:
            message = f"ListenBrainz has no user {user!r}: check the spelling (404 from {url})"
            return self._error(UnknownUserError, message, url, status)
        if status == 401:
            advice = "correct or remove PULSE_LISTENBRAINZ_TOKEN (reading needs none)"
        else:
            advice = "check PULSE_LISTENBRAINZ_URL"
        message = f"ListenBrainz answered status {status}{explained}: {url}; {advice}"
        return self._error(ExternalAPIError, message, url, status)

    def _given_up(self, failure: _Retryable, url: str, tries: int) -> ExternalAPIError:
        times = "at the only try" if tries == 1 else f"{tries} times"
        message = f"ListenBrainz failed {times}, at last with: {failure}: {url}; {failure.advice}"
        kind = ExternalAPIError if self._connected else UnreachableAPIError
        return self._error(kind, message, url, failure.status)

    def _error(self, kind: type[ExternalAPIError], message: str, url: str, status: int | None) -> ExternalAPIError:
        return kind(self._clean(message), url=self._clean(url), status=status)

    def _clean(self, text: str) -> str:
        """Make `text` one printable line without secrets, whatever a server put into it."""
        if self._token:
            text = text.replace(self._token, "***")
        text = _USER_INFO.sub("//", " ".join(text.split()))
        return "".join(char if char.isprintable() else "?" for char in text)

    def _note_quota(self, response: requests.Response) -> None:
        """Remember until when the API wants no more requests."""
        reset_in = _header(response, "X-RateLimit-Reset-In")
        spent = response.status_code == 429 or _header(response, "X-RateLimit-Remaining") == 0
        if spent and reset_in:
            self._resume_at = self._clock() + min(reset_in, MAX_QUOTA_WAIT_S)

    def _wait_for_quota(self) -> None:
        if self._resume_at is None:
            return
        # The clock may have been set back meanwhile.
        wait = min(self._resume_at - self._clock(), MAX_QUOTA_WAIT_S)
        self._resume_at = None
        if wait > 0:
            logger.debug("the ListenBrainz rate limit is reached: waiting %.1f s", wait)
            self._sleep(wait)

    def _back_off(self, failure: _Retryable, attempt: int, tries: int) -> None:
        """Wait before the next try, with full jitter; the rate limit's own time, where told, replaces it."""
        wait = 0.0
        if self._resume_at is None:
            wait = random.uniform(0, min(MAX_BACKOFF_S, 2.0**attempt))
        # Where nothing answers at all, the error at the end says so once.
        level = logging.WARNING if self._connected else logging.DEBUG
        logger.log(level, "ListenBrainz, try %d of %d: %s", attempt, tries, self._clean(str(failure)))
        if wait:
            self._sleep(wait)

    def _address(self, user: str, endpoint: str, params: dict[str, int]) -> str:
        # A name may hold anything, slashes and (from a command line) undecodable bytes included.
        name = quote(user, safe="", errors="surrogatepass")
        query = f"?{urlencode(params)}" if params else ""
        return f"{self._url}/1/user/{name}/{endpoint}{query}"

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Token {self._token}"
        return request


def _checked(token: str | None) -> str | None:
    """Return a token that fits a header (else the HTTP library's error would show it); None for none."""
    token = (token or "").strip()
    if not (token.isascii() and token.isprintable()):
        raise ConfigurationError("PULSE_LISTENBRAINZ_TOKEN has characters that no token has: copy it again")
    return token or None


def _decoded(response: requests.Response) -> dict[str, Any]:
    status = response.status_code
    try:
        answer = from_json(response.content)
    except ValueError:
        raise _Retryable(f"status {status}, but the answer is not JSON", _CHECK_URL, status=status) from None
    if type(answer) is not dict:
        raise _other_shape("payload")
    return answer


def _payload(answer: dict[str, Any]) -> dict[str, Any]:
    payload = answer.get("payload")
    if type(payload) is not dict:
        raise _other_shape("payload")
    return payload


def _other_shape(field: str) -> _Retryable:
    what = f"status 200, but the answer has another shape ({field!r} is missing or wrong)"
    return _Retryable(what, _CHECK_URL, status=200)


def _integer(payload: dict[str, Any], field: str) -> int:
    value = payload.get(field)
    if type(value) is not int:
        raise _other_shape(field)
    return value


def _listens(payload: dict[str, Any]) -> list[dict[str, Any]]:
    listens = payload.get("listens")
    if type(listens) is not list or not all(type(listen) is dict for listen in listens):
        raise _other_shape("listens")
    return listens


def _bounds(payload: dict[str, Any], user: str) -> Bounds:
    listens = _listens(payload)
    name = listens[0].get("user_name") if listens else None
    return Bounds(
        user_name=name if type(name) is str and name else user,
        oldest_ts=_integer(payload, "oldest_listen_ts"),
        latest_ts=_integer(payload, "latest_listen_ts"),
    )


def _explained(response: requests.Response) -> str:
    """Return the API's own words on an error, as " (words)"; empty for an answer that isn't the API's."""
    try:
        words = from_json(response.content)["error"]
    except (ValueError, TypeError, LookupError):
        return ""
    return f" ({words[:200]})" if type(words) is str else ""


def _header(response: requests.Response, name: str) -> int | None:
    """Read a header as a whole number, not negative; None where it is missing or isn't one."""
    value = response.headers.get(name, "").strip()
    return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None


def _second(listen: dict[str, Any]) -> int | None:
    value = listen.get("listened_at")
    return value if type(value) is int else None


def _key(listen: dict[str, Any]) -> object:
    """Tell one row from every other of its second; of a row that isn't whole, everything counts."""
    msid = listen.get("recording_msid")
    metadata = listen.get("track_metadata")
    if type(msid) is not str or type(metadata) is not dict or _second(listen) is None:
        return to_json(listen)
    return listen["listened_at"], msid, to_json([metadata.get("artist_name"), metadata.get("track_name")])


def _without(page: list[dict[str, Any]], repeats: Counter[object], *, second: int) -> list[dict[str, Any]]:
    """Return `page` less the rows in `repeats`, each as often as it was there; all lie at `second`."""
    if not repeats:
        return page
    fresh = []
    for listen in page:
        # A row without a usable time may lie in any second.
        if _second(listen) in (second, None) and repeats[key := _key(listen)]:
            repeats[key] -= 1
        else:
            fresh.append(listen)
    return fresh


def _utc(second: int) -> str:
    """Name a second for a person: seconds since 1970 and, where there is one, the date."""
    if not 0 <= second <= _LAST_PRINTABLE_S:
        return str(second)
    return f"{second} ({datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S} UTC)"
