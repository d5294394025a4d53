"""What to ask ListenBrainz again, and what its answer tells: the arithmetic of reconciliation, no I/O.

seconds of the listens held -> windows, the likeliest to differ first
rows held of a window, rows shown there -> what came late, what is gone
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from extract.listenbrainz.windows import Interval, subtract

WINDOW_LISTENS = 900
"""Held listens of a window, more or less: one page, with room for some that came late."""

NEWEST_WINDOWS = 3
"""Windows that are looked at before older ones when counts differ: most changes are recent."""

FIRST_SECOND = 1
"""Nothing was listened to before; `min_ts` must not be negative."""

_DAY_S = 86_400
_NEVER_ENDS = 1 << 62


class Verified(NamedTuple):
    """Seconds start <= t < end were last compared with ListenBrainz at `at`; all since 1970."""

    start: int
    end: int
    at: int


def overlay(verified: Iterable[Verified], new: Verified) -> list[Verified]:
    """Return `verified` (which don't overlap) with the seconds of `new` replaced, sorted, as few as can be."""
    pieces = [new]
    for old in verified:
        pieces.append(Verified(old.start, min(old.end, new.start), old.at))
        pieces.append(Verified(max(old.start, new.end), old.end, old.at))
    merged: list[Verified] = []
    for piece in sorted(piece for piece in pieces if piece.start < piece.end):
        if merged and merged[-1].end == piece.start and merged[-1].at == piece.at:
            merged[-1] = merged[-1]._replace(end=piece.end)
        else:
            merged.append(piece)
    return merged


def verified_since(window: Interval, verified: Sequence[Verified]) -> int:
    """Return when the longest unverified second of `window` was last compared; 0 for never.

    `verified` is as `overlay` returns it.
    """
    at, end = window
    oldest: int | None = None
    for piece in verified[max(bisect_right(verified, (at, _NEVER_ENDS, 0)) - 1, 0) :]:
        if piece.end <= at:
            continue
        if piece.start > at:
            return 0
        oldest = piece.at if oldest is None else min(oldest, piece.at)
        at = piece.end
        if at >= end:
            return oldest
    return 0


def cut(
    times: Sequence[int], until: int, chance: Random, size: int = WINDOW_LISTENS, *, start: int = FIRST_SECOND
) -> list[Interval]:
    """Cut all seconds from `start` to `until` into windows of about `size` of the sorted `times`, oldest first.

    The bounds differ from run to run, as `chance` has it: ListenBrainz caches a page of given bounds for an hour.
    """
    spread = max(size // 20, 1)
    windows: list[Interval] = []
    place = 0
    while len(times) - place > size + spread:
        place += chance.randint(max(size - spread, 1), size + spread)
        place = bisect_right(times, times[place - 1], lo=place - 1)  # a second stays whole
        if place == len(times):
            break
        bound = chance.randint(times[place - 1] + 1, times[place])
        windows.append((start, bound))
        start = bound
    windows.append((start, max(until, start + 1)))
    return windows


@dataclass(frozen=True)
class Checks:
    """Windows in the order of asking; the first `required` are asked for even where counts agree."""

    windows: list[Interval]
    required: int


def stale(
    times: Sequence[int],
    verified: Sequence[Verified],
    before: int,
    chance: Random,
    size: int = WINDOW_LISTENS,
) -> list[Interval]:
    """Cut the seconds that were last compared before `before` (or never) into windows, the stalest first.

    A window holds seconds of one day of comparing. Seconds before the first and after the last of `times` don't count.
    """
    if not times:
        return []
    at, end = times[0], times[-1] + 1
    pieces: list[Verified] = []
    for piece in [*verified, Verified(end, end, 0)]:
        for new in (
            Verified(at, min(piece.start, end), 0),
            Verified(max(at, piece.start), min(piece.end, end), piece.at),
        ):
            day = new.at // _DAY_S
            if new.start >= new.end or new.at >= before:
                continue
            if pieces and (pieces[-1].end, pieces[-1].at) == (new.start, day):
                pieces[-1] = pieces[-1]._replace(end=new.end)
            else:
                pieces.append(Verified(new.start, new.end, day))
        at = max(at, piece.end)
    windows = [
        (day, window)
        for start, stop, day in pieces
        for window in cut(times[bisect_left(times, start) : bisect_left(times, stop)], stop, chance, size, start=start)
    ]
    return [window for _, window in sorted(windows, key=lambda aged: (aged[0], -aged[1][0]))]


def order(windows: Sequence[Interval], required: Sequence[Interval], verified: Sequence[Verified]) -> Checks:
    """Put `required` first, then `windows` (oldest first) as they most likely differ from ListenBrainz.

    Those are the newest ones, and then the others: stalest day first, newest first. No second is asked for twice.
    """
    newest = list(reversed(windows))[:NEWEST_WINDOWS]
    others = sorted(windows, key=lambda window: (verified_since(window, verified) // _DAY_S, -window[0]))
    rest = [piece for window in dict.fromkeys([*newest, *others]) for piece in subtract(window, required)]
    return Checks([*required, *rest], len(required))


@dataclass(frozen=True)
class Comparison:
    """What one window tells. Rows are named by their payload's hash."""

    late: frozenset[bytes]
    """Shown, not held."""
    gone: frozenset[bytes]
    """Held, not shown."""
    edited: frozenset[bytes]
    """Those gone whose listen is shown all the same, with another payload."""
    added: int
    """Listens shown of which no row is held."""
    lost: int
    """Listens held of which no row is shown."""


def compare(held: Mapping[bytes, Hashable], shown: Mapping[bytes, Hashable]) -> Comparison:
    """Compare rows by hash; the values tell which listen a row is of."""
    late, gone = shown.keys() - held.keys(), held.keys() - shown.keys()
    held_listens, shown_listens = set(held.values()), set(shown.values())
    return Comparison(
        late=frozenset(late),
        gone=frozenset(gone),
        edited=frozenset(row for row in gone if held[row] in shown_listens),
        added=len(shown_listens - held_listens),
        lost=len(held_listens - shown_listens),
    )


@dataclass
class Balance:
    """ListenBrainz' count of a user's listens beside ours."""

    reported: int
    held: int
    recent: int = 0
    """Those of `held` so new that the reported count, which is cached, may not have them yet."""
    unexplained: int = 0
    """The difference that was left when every window had been compared: ListenBrainz' own count is off by it."""
    vanished: int = 0
    """Listens that were held and that ListenBrainz does not show, less those shown instead in the same window."""

    @property
    def difference(self) -> int:
        """How many more are reported than held."""
        return self.reported - self.held

    @property
    def is_settled(self) -> bool:
        """Whether the counts give no reason to look further."""
        return self.difference in (0, self.unexplained) or 0 < -self.difference <= self.recent

    def take(self, told: Comparison) -> None:
        """Count in what a window told."""
        self.held += told.added - told.lost
        self.vanished += max(told.lost - told.added, 0)


def until_settled(checks: Checks, balance: Balance) -> Iterator[Interval]:
    """Yield windows to compare as long as there is reason to; `balance` takes in what each told, before the next."""
    for place, window in enumerate(checks.windows):
        if place >= checks.required and balance.is_settled:
            return
        yield window
