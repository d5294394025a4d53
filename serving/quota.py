"""The rate limit of /1/, as ListenBrainz': fixed windows of 10 s, aligned to the epoch; kept in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import NamedTuple

WINDOW_SECONDS = 10

OVER = (
    "You have exceeded your rate limit. See the X-RateLimit-* response headers for more information on your current "
    "rate limit."
)


class Quota(NamedTuple):
    """What one asker has left: requests, and seconds since 1970 until when."""

    limit: int
    used: int
    reset: int
    reset_in: int

    @property
    def is_over(self) -> bool:
        """Whether this request is one too many: exactly `limit` pass."""
        return self.used > self.limit

    @property
    def headers(self) -> dict[str, str]:
        """What each answer says of it."""
        return {
            "x-ratelimit-limit": str(self.limit),
            "x-ratelimit-remaining": str(max(self.limit - self.used, 0)),
            "x-ratelimit-reset": str(self.reset),
            "x-ratelimit-reset-in": str(self.reset_in),
        }


class RateLimit:
    """Counts requests by asker. It forgets all with each window, so that it never grows."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._window = -1
        self._used: Counter[Hashable] = Counter()

    def count(self, asker: Hashable, now: float) -> Quota:
        """Count a request made `now` (seconds since 1970)."""
        window = int(now) // WINDOW_SECONDS
        if window != self._window:
            self._window = window
            self._used.clear()
        self._used[asker] += 1
        reset = (window + 1) * WINDOW_SECONDS
        return Quota(self._limit, self._used[asker], reset, reset - int(now))
