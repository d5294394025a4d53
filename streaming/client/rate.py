"""A token bucket: at most so many events a second, with a burst of at most so many at once."""

from __future__ import annotations

import time
from collections.abc import Callable


class TokenBucket:
    """Lets `rate` events a second pass; after a pause up to `burst` at once. For one thread.

    Time comes from `clock` (seconds, monotonic) and passes by `sleep`, so that a test needs none.

    >>> now = [0.0]
    >>> bucket = TokenBucket(100, burst=10, clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s))
    >>> bucket.take(60)
    >>> round(now[0], 6)
    0.5
    """

    def __init__(
        self,
        rate: float,
        *,
        burst: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if rate <= 0 or (burst is not None and burst <= 0):
            raise ValueError("rate and burst must be above 0")
        self.rate = rate
        self.burst = max(rate / 20, 1.0) if burst is None else burst
        self._clock = clock
        self._sleep = sleep
        self._tokens = self.burst
        self._filled_at = clock()

    def take(self, events: int = 1) -> None:
        """Wait until `events` may pass (also more than the burst: then they are paid for in advance)."""
        now = self._clock()
        self._tokens = min(self.burst, self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        self._tokens -= events
        if self._tokens < 0:
            self._sleep(-self._tokens / self.rate)
