"""Which seconds of a history are still to read: arithmetic on half-open intervals, no I/O.

(oldest, latest, what is done) -> windows to ask for, newest first

An interval `(start, end)` holds the seconds start <= t < end, since 1970; one with start >= end is empty.
"""

from __future__ import annotations

from collections.abc import Iterable

Interval = tuple[int, int]

MAX_WINDOW_S = 30 * 86_400 - 1
"""Longest window, in seconds: its query, `min_ts = start - 1` to `max_ts = end`, spans exactly 30 days."""


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the same seconds as few, sorted intervals: those that touch or overlap become one."""
    merged: list[Interval] = []
    for start, end in sorted(interval for interval in intervals if interval[0] < interval[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def subtract(wanted: Interval, done: Iterable[Interval]) -> list[Interval]:
    """Return the seconds of `wanted` that are in no interval of `done` (in any order), oldest first."""
    left: list[Interval] = []
    start, end = wanted
    for done_start, done_end in merge(done):
        if done_start >= end:
            break
        if done_start > start:
            left.append((start, done_start))
        start = max(start, done_end)
    if start < end:
        left.append((start, end))
    return left


def split(interval: Interval, size: int = MAX_WINDOW_S) -> list[Interval]:
    """Cut `interval` into pieces of at most `size` seconds, newest first; the oldest is the shorter one."""
    if size < 1:
        raise ValueError("size must be at least one second")
    start, end = interval
    return [(max(start, upper - size), upper) for upper in range(end, start, -size)]


def plan(
    oldest: int,
    latest: int,
    done: Iterable[Interval],
    *,
    since: int | None = None,
    lookback_s: int = 0,
) -> list[Interval]:
    """Return the windows still to read, newest first, each at most `MAX_WINDOW_S` long.

    Wanted is every second from `oldest` (or `since`, if later) up to and including `latest`, less `done`.
    The last `lookback_s` seconds, `latest` included, are wanted even where done: scrobbles arrive late.
    `oldest` and `latest` are both 0 for a user without listens: nothing is wanted then.
    """
    if oldest == latest == 0:
        return []
    start = oldest if since is None else max(oldest, since)
    end = latest + 1
    lookback = (end - lookback_s, end)
    settled = [piece for interval in done for piece in subtract(interval, [lookback])]
    return [window for gap in reversed(subtract((start, end), settled)) for window in split(gap)]
