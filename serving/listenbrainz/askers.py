"""Who asks: the token of a request, and the rate limit of everything under /1/."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import Query, Request

from music_pulse.identity import key
from serving.errors import ApiError
from serving.quota import OVER, RateLimit
from serving.tokens import selector_of, user_of

_MOST_KNOWN = 10_000


class Askers:
    """Knows which tokens were valid, so that each user has a quota of their own; an address has one without.

    That is no authentication: a token is looked up each time, so that a revoked one is none at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = RateLimit(limit)
        self._known: dict[bytes, str] = {}

    def count(self, request: Request) -> None:
        """Count a request. Raises `ApiError` 429 for one too many."""
        token = presented_token(request)
        asker = self._known.get(selector_of(token)) if token else None
        quota = self._limit.count(asker or (request.client.host if request.client else ""), time.time())
        request.state.quota = quota.headers
        if quota.is_over:
            request.app.state.metrics.limited.inc()
            raise ApiError(OVER, 429)

    async def user(self, request: Request, token: str) -> str | None:
        """Return the user of a token, if it is one."""
        async with request.app.state.databases.app.connection() as connection:
            name = await user_of(connection, token)
        selector = selector_of(token)
        if name is None:
            self._known.pop(selector, None)
        else:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[selector] = "user:" + key(name)
        return name


def limited(request: Request) -> None:
    """Count each request of a router that depends on this."""
    request.app.state.askers.count(request)


def token_in_query(
    _token: Annotated[str | None, Query(alias="token", description="The token, where no header can be sent.")] = None,
) -> None:
    """Tell the OpenAPI of it; `presented_token` reads it."""


def presented_token(request: Request) -> str | None:
    """Return the token of the header, else of the query; what stands before the first space isn't looked at."""
    header = request.headers.get("authorization")
    if header:
        parts = header.split(" ")
        return parts[1] if len(parts) > 1 else None
    return request.query_params.get("token")


async def authorized(request: Request) -> str:
    """Return who sends. Raises `ApiError` 401."""
    header = request.headers.get("authorization")
    if not header and not request.query_params.get("token"):
        raise ApiError("You need to provide an Authorization header.", 401)
    token = presented_token(request)
    if token is None:
        raise ApiError("Provided Authorization header is invalid.", 401)
    name: str | None = await request.app.state.askers.user(request, token)
    if name is None:
        raise ApiError("Invalid authorization token.", 401)
    return name
