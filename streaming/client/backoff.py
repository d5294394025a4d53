"""How long to wait before the next try: exponential, with full jitter, so that many clients don't knock together."""

from __future__ import annotations

import random
from collections.abc import Iterator


def delays(first: float = 0.05, longest: float = 2.0, rng: random.Random | None = None) -> Iterator[float]:
    """Yield seconds to wait, without end: uniformly between 0 and a bound that doubles up to `longest`.

    >>> [round(delay, 3) for delay, _ in zip(delays(rng=random.Random(1)), range(3))]
    [0.007, 0.085, 0.153]
    """
    source = rng or random.Random()
    bound = first
    while True:
        yield source.uniform(0, bound)
        bound = min(bound * 2, longest)
