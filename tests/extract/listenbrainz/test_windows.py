from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.listenbrainz.windows import MAX_WINDOW_S, Interval, merge, plan, split, subtract

SMALL = st.integers(-20, 60)
INTERVALS = st.lists(st.tuples(SMALL, SMALL), max_size=8)


def seconds(intervals: list[Interval]) -> set[int]:
    return {second for start, end in intervals for second in range(start, end)}


@pytest.mark.parametrize(
    ("intervals", "merged"),
    [
        ([], []),
        ([(5, 5), (7, 3)], []),
        ([(4, 6), (1, 4)], [(1, 6)]),
        ([(1, 4), (5, 6)], [(1, 4), (5, 6)]),
        ([(1, 9), (2, 3), (8, 12)], [(1, 12)]),
    ],
)
def test_merge_joins_what_touches_or_overlaps(intervals: list[Interval], merged: list[Interval]) -> None:
    assert merge(intervals) == merged


@given(INTERVALS)
def test_merge_keeps_the_seconds_with_gaps_between(intervals: list[Interval]) -> None:
    merged = merge(intervals)
    assert seconds(merged) == seconds(intervals)
    assert all(start < end for start, end in merged)
    assert all(left[1] < right[0] for left, right in zip(merged, merged[1:], strict=False))


@given(st.tuples(SMALL, SMALL), INTERVALS)
def test_subtract_is_set_difference(wanted: Interval, done: list[Interval]) -> None:
    left = subtract(wanted, done)
    assert seconds(left) == seconds([wanted]) - seconds(done)
    assert left == merge(left)


@given(st.tuples(SMALL, SMALL), st.integers(1, 25))
def test_split_covers_the_interval_once_newest_first(interval: Interval, size: int) -> None:
    pieces = split(interval, size)
    assert merge(pieces) == merge([interval])
    assert sum(end - start for start, end in pieces) == max(interval[1] - interval[0], 0)
    assert all(0 < end - start <= size for start, end in pieces)
    assert pieces == sorted(pieces, reverse=True)


def test_a_window_is_queried_by_at_most_thirty_days() -> None:
    start, end = max(split((0, 10 * MAX_WINDOW_S)), key=lambda piece: piece[1] - piece[0])
    min_ts, max_ts = start - 1, end  # exclusive, both
    assert max_ts - min_ts == 30 * 86_400


def test_split_refuses_a_size_that_never_ends() -> None:
    with pytest.raises(ValueError, match="size"):
        split((0, 10), 0)


def test_plan_is_empty_without_listens() -> None:
    assert plan(0, 0, [], lookback_s=100) == []


def test_plan_of_one_listen_is_its_second() -> None:
    assert plan(50, 50, []) == [(50, 51)]


def test_plan_of_a_finished_history_is_the_lookback() -> None:
    assert plan(10, 99, [(10, 100)]) == []
    assert plan(10, 99, [(10, 100)], lookback_s=5) == [(95, 100)]
    assert plan(10, 99, [(10, 100)], lookback_s=5000) == [(10, 100)]


def test_plan_joins_the_lookback_with_what_is_new() -> None:
    assert plan(10, 199, [(10, 100)], lookback_s=150) == [(50, 200)]


def test_plan_reads_older_gaps_left_by_a_stop() -> None:
    day = 86_400
    done = [(200 * day, 300 * day)]
    windows = plan(100 * day, 320 * day, done)
    assert merge(windows) == [(100 * day, 200 * day), (300 * day, 320 * day + 1)]
    assert windows[0] == (300 * day, 320 * day + 1)


def test_plan_reads_backdated_listens_before_what_was_the_oldest() -> None:
    assert plan(10, 99, [(40, 100)]) == [(10, 40)]


@pytest.mark.parametrize(("since", "windows"), [(0, [(10, 100)]), (60, [(60, 100)]), (100, []), (5000, [])])
def test_plan_since(since: int, windows: list[Interval]) -> None:
    assert plan(10, 99, [], since=since) == windows
    assert plan(10, 99, [], since=since, lookback_s=1) == windows


@given(
    st.integers(1, 40),
    st.integers(0, 40),
    INTERVALS,
    st.none() | st.integers(0, 90),
    st.integers(0, 100),
)
def test_plan_is_what_is_not_done_plus_the_lookback(
    oldest: int, length: int, done: list[Interval], since: int | None, lookback_s: int
) -> None:
    latest = oldest + length
    wanted = seconds([(max(oldest, since or 0), latest + 1)])
    again = seconds([(latest + 1 - lookback_s, latest + 1)])
    windows = plan(oldest, latest, done, since=since, lookback_s=lookback_s)
    assert seconds(windows) == wanted - (seconds(done) - again)
    assert windows == sorted(windows, reverse=True)
