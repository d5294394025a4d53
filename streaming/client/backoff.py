"""How long to wait before the next try: exponential, with full jitter, so that many clients don't knock together."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException

T = TypeVar("T")


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


def asked_again(ask: Callable[[], T], is_passing: Callable[[KafkaError], bool], seconds: float) -> T:
    """Return the answer; for `seconds`, ask again after what is passing. Raises `KafkaException`."""
    deadline = time.monotonic() + seconds
    for delay in delays():
        try:
            return ask()
        except KafkaException as error:
            if not is_passing(error.args[0]) or time.monotonic() + delay > deadline:
                raise
            time.sleep(delay)
    raise AssertionError("delays never end")
