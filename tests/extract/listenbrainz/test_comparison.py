"""Which windows are compared, and that comparing them makes what is held equal to what ListenBrainz shows."""

from __future__ import annotations

from collections.abc import Hashable
from random import Random

import pytest

from extract.listenbrainz.comparison import (
    Balance,
    Checks,
    Verified,
    compare,
    cut,
    order,
    overlay,
    stale,
    until_settled,
    verified_since,
)

DAY = 86_400
END = 2_000
"""Seconds of the small histories."""

Rows = dict[bytes, tuple[int, Hashable]]
"""Payload hash -> (second, MSID)."""


class History:
    """What ListenBrainz shows of a user, what is held, and the reconciliation between the two."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.size = chance.randint(1, 6)
        self.shown: Rows = {}
        self.held: Rows = {}
        self.verified: list[Verified] = []
        self.payloads = 0
        for _ in range(chance.randrange(25)):
            self.add()
        self.held = dict(self.shown)

    def add(self, key: tuple[int, Hashable] | None = None) -> None:
        key = key or (self.chance.choice((self.chance.randint(1, END - 1), 77)), self.chance.randrange(3))
        if key not in self.shown.values():
            self.payloads += 1
            self.shown[self.payloads.to_bytes(4, "big")] = key

    def delete(self) -> None:
        if self.shown:
            del self.shown[self.chance.choice(list(self.shown))]

    def edit(self) -> None:
        if self.shown:
            self.add(self.shown.pop(self.chance.choice(list(self.shown))))

    def revive(self) -> None:
        """What was deleted comes back as it was."""
        gone = [row for row in self.held if row not in self.shown and self.held[row] not in self.shown.values()]
        if gone:
            row = self.chance.choice(gone)
            self.shown[row] = self.held[row]

    def reconcile(self, now: int, *, few: int = 0, is_full: bool = False) -> int:
        """Reconcile; return how many windows were compared."""
        times = sorted(second for second, _ in set(self.held.values()))
        windows = cut(times, END, self.chance, self.size)
        required = stale(times, self.verified, now * DAY, self.chance, self.size)[:few]
        checks = order(windows, required, self.verified)
        if is_full:
            checks = Checks(windows, len(windows))
        balance = Balance(len(set(self.shown.values())), len(times))
        compared = 0
        held_after = dict(self.held)
        for start, end in until_settled(checks, balance):
            held, shown = (
                {row: key for row, key in rows.items() if start <= key[0] < end} for rows in (self.held, self.shown)
            )
            told = compare(held, shown)
            balance.take(told)
            # What is found is landed when the search has ended.
            held_after = {row: key for row, key in held_after.items() if row not in told.gone}
            held_after |= {row: shown[row] for row in told.late}
            self.verified = overlay(self.verified, Verified(start, end, now * DAY))
            compared += 1
        self.held = held_after
        assert balance.held == len(set(self.held.values()))
        return compared


def test_ten_thousand_random_histories_end_equal() -> None:
    for seed in range(10_000):
        chance = Random(seed)
        history = History(chance)
        for now in range(1, 3):
            edits = chance.choices((history.add, history.delete, history.edit, history.revive), k=chance.randrange(6))
            for edit in edits:
                edit()
            history.reconcile(now)
            assert len(set(history.held.values())) == len(set(history.shown.values())), seed
        history.reconcile(3, is_full=True)
        assert history.held == history.shown, seed


def test_what_cancels_out_is_found_in_time_by_the_stalest_windows() -> None:
    for seed in range(300):
        history = History(Random(seed))
        history.reconcile(1, is_full=True)
        if not history.held:
            continue
        history.delete()
        history.add((history.chance.choice([second for second, _ in history.held.values()]), 9))
        rounds = -(-len(history.held) // max(history.size - 1, 1))
        for now in range(2, 2 + rounds):
            history.reconcile(now, few=1)
        assert history.held == history.shown, seed


@pytest.mark.parametrize("size", [1, 2, 7, 900])
@pytest.mark.parametrize("seconds", [[], [5], [5] * 40, list(range(100, 140)), [7, 9] * 30, list(range(3, 90_000, 60))])
def test_windows_cover_every_second_once_and_hold_about_as_many_listens_as_wanted(
    seconds: list[int], size: int
) -> None:
    times = sorted(seconds)
    windows = cut(times, 100_000, Random(1), size)
    assert windows[0][0] == 1
    assert windows[-1][1] == 100_000
    assert all(before[1] == after[0] for before, after in zip(windows, windows[1:], strict=False))
    assert all(start < end for start, end in windows)
    in_one_second = max((times.count(second) for second in set(times[:100])), default=0)
    held = [sum(start <= second < end for second in times) for start, end in windows]
    assert max(held) <= size + max(size // 20, 1) + in_one_second


def test_bounds_differ_from_run_to_run_since_pages_of_equal_bounds_are_cached() -> None:
    times = list(range(0, 1_000_000, 50))
    first, second = (set(cut(times, 1_000_000, Random(seed))) for seed in (1, 2))
    assert len(first) > 20
    assert first & second == set()


def test_the_last_bound_lies_beyond_what_is_held() -> None:
    assert cut([10, 10], 5, Random(1)) == [(1, 5)]
    assert cut([], 0, Random(1)) == [(1, 2)]


def test_a_newer_comparison_replaces_an_older_one_and_neighbours_are_joined() -> None:
    verified = overlay([], Verified(10, 20, 1))
    verified = overlay(verified, Verified(30, 40, 1))
    verified = overlay(verified, Verified(15, 35, 2))
    assert verified == [(10, 15, 1), (15, 35, 2), (35, 40, 1)]
    assert overlay(verified, Verified(35, 50, 2)) == [(10, 15, 1), (15, 50, 2)]
    assert overlay(verified, Verified(0, 99, 3)) == [(0, 99, 3)]


@pytest.mark.parametrize(
    ("window", "since"),
    [((10, 15), 5), ((12, 18), 3), ((9, 12), 0), ((18, 25), 0), ((15, 20), 3), ((24, 31), 0), ((50, 60), 0)],
)
def test_a_window_is_as_stale_as_its_stalest_second(window: tuple[int, int], since: int) -> None:
    verified = [Verified(10, 15, 5), Verified(15, 20, 3), Verified(24, 30, 9)]
    assert verified_since(window, verified) == since


def test_the_newest_come_first_then_the_stalest_days() -> None:
    windows = [(place * 10 + 1, place * 10 + 11) for place in range(8)]
    ages = [5, 2, 3, 1, 3, 5, 5, 5]
    verified = [Verified(start, end, age * DAY) for (start, end), age in zip(windows, ages, strict=True)]
    checks = order(windows, [], verified)
    assert [windows.index(window) for window in checks.windows] == [7, 6, 5, 3, 1, 4, 2, 0]
    assert checks.required == 0


def test_no_second_is_asked_for_twice() -> None:
    assert order([(1, 50), (50, 90)], [(45, 60)], []) == Checks([(45, 60), (60, 90), (1, 45)], 1)


def test_stale_seconds_are_cut_by_the_day_they_were_compared() -> None:
    times = list(range(100, 200, 10))
    verified = [Verified(1, 125, 3 * DAY), Verified(140, 150, 2 * DAY + 1), Verified(150, 170, 2 * DAY)]
    verified += [Verified(170, 180, 9 * DAY), Verified(180, 500, 4 * DAY)]
    assert stale(times, verified, 5 * DAY, Random(1)) == [(125, 140), (140, 170), (100, 125), (180, 191)]
    assert stale(times, [Verified(100, 191, 5 * DAY)], 5 * DAY, Random(1)) == []
    assert stale(times, [], 5 * DAY, Random(1)) == [(100, 191)]
    assert stale([], [], 5 * DAY, Random(1)) == []
    of_one_day = [Verified(100, 120, DAY), Verified(120, 150, 9 * DAY), Verified(150, 200, DAY)]
    assert stale(times, of_one_day, 5 * DAY, Random(1)) == [(150, 191), (100, 120)]


def test_rows_are_compared_by_payload_and_listens_by_key() -> None:
    told = compare({b"a": 1, b"b": 2, b"c": 3, b"d": 3}, {b"a": 1, b"B": 2, b"e": 4, b"d": 3})
    assert (told.late, told.gone, told.edited) == ({b"B", b"e"}, {b"b", b"c"}, {b"b", b"c"})
    assert (told.added, told.lost) == (1, 0)
    assert compare({b"a": 1}, {}).lost == 1


@pytest.mark.parametrize(
    ("balance", "is_settled"),
    [
        (Balance(5, 5), True),
        (Balance(5, 4), False),
        (Balance(5, 6), False),
        (Balance(5, 6, recent=1), True),
        (Balance(5, 7, recent=1), False),
        (Balance(6, 5, recent=9), False),
        (Balance(8, 5, unexplained=3), True),
        (Balance(5, 5, unexplained=3), True),
        (Balance(7, 5, unexplained=3), False),
    ],
)
def test_counts_are_settled_where_nothing_is_left_to_explain(balance: Balance, is_settled: bool) -> None:
    assert balance.is_settled is is_settled
