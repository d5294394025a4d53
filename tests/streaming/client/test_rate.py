from __future__ import annotations

import random
from itertools import islice

import pytest

from streaming.client import TokenBucket
from streaming.client.backoff import delays


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds


def bucket(rate: float, burst: float, clock: Clock) -> TokenBucket:
    return TokenBucket(rate, burst=burst, clock=clock, sleep=clock.sleep)


def test_a_burst_passes_at_once_and_then_the_rate_holds() -> None:
    clock = Clock()
    tokens = bucket(50, 10, clock)
    passed_at = []
    for _ in range(20):
        tokens.take()
        passed_at.append(round(clock.now - 100, 6))
    assert passed_at == [0] * 10 + [round(n / 50, 6) for n in range(1, 11)]


def test_many_at_once_are_paid_for_before_the_next() -> None:
    clock = Clock()
    tokens = bucket(100, 10, clock)
    tokens.take(1010)
    assert clock.now == pytest.approx(110)
    tokens.take()
    assert clock.now == pytest.approx(110.01)


def test_a_pause_saves_up_no_more_than_the_burst() -> None:
    clock = Clock()
    tokens = bucket(100, 10, clock)
    clock.now += 1000
    tokens.take(20)
    assert clock.now == pytest.approx(1100.1)


def test_over_a_long_time_the_rate_is_exact_however_the_events_come() -> None:
    clock, rng = Clock(), random.Random(4)
    tokens = bucket(1_000, 50, clock)
    sent = 0
    while sent < 100_000:
        some = rng.randint(1, 400)
        tokens.take(some)
        sent += some
        clock.now += rng.random() / 1_000
    assert clock.now - 100 == pytest.approx((sent - 50) / 1_000, rel=0.01)


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_nonsense_is_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        TokenBucket(rate, burst=burst)


def test_backing_off_doubles_its_bound_up_to_the_longest_and_jitters_within() -> None:
    waits = [list(islice(delays(0.1, 1.0, random.Random(seed)), 8)) for seed in range(200)]
    bounds = [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 1.0]
    for number, bound in enumerate(bounds):
        column = [wait[number] for wait in waits]
        assert 0 <= min(column) < bound / 10
        assert bound * 0.9 < max(column) <= bound
