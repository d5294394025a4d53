"""What the trending windows must hold, in plain Python: one listen after the other, sets and counters."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from streaming.trending_rules import TrendingRules

Window = tuple[int, str, str]
"""Start in seconds since 1970, kind, id."""


class Sent(NamedTuple):
    """An event and the broker's timestamp, in seconds since 1970."""

    event: Mapping[str, Any]
    broker_time: float


class Row(NamedTuple):
    """What is counted of one window and entity."""

    artist_name: str
    track_name: str | None
    listens: int
    listeners: int


@dataclass
class TrendingReference:
    """Counts batches in the order given; a window takes nothing once the watermark has passed its end."""

    rules: TrendingRules
    watermark: float = float("-inf")
    left_out: Counter[str] = field(default_factory=Counter)
    _listens: dict[Window, dict[str, set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    _names: dict[Window, set[tuple[str, str]]] = field(default_factory=lambda: defaultdict(set))

    def count(self, batch: Iterable[Sent]) -> None:
        """Count one batch; the watermark follows after it."""
        newest = self.watermark
        for event, broker_time in batch:
            listened_at = event["listened_at"]
            if listened_at > broker_time + self.rules.clock_ahead_seconds:
                self.left_out["clock ahead"] += 1
                continue
            self._count_listen(event)
            newest = max(newest, listened_at - self.rules.watermark_minutes * 60)
        self.watermark = newest

    def _count_listen(self, event: Mapping[str, Any]) -> None:
        names = (event["track_metadata"]["artist_name"], event["track_metadata"]["track_name"])
        slide, length = self.rules.slide_minutes * 60, self.rules.window_minutes * 60
        last = event["listened_at"] // slide * slide
        for start in range(last - length + slide, last + 1, slide):
            if start + length <= self.watermark:
                continue
            for window in ((start, "track", event["track_id"]), (start, "artist", event["artist_id"])):
                self._listens[window][event["user_key"]].add(event["listen_id"])
                self._names[window].add(names)

    def windows(self) -> dict[Window, Row]:
        """Return what all windows hold."""
        return {window: self._row(window, users) for window, users in self._listens.items()}

    def _row(self, window: Window, users: Mapping[str, set[str]]) -> Row:
        artists, tracks = zip(*self._names[window], strict=True)
        return Row(
            min(artists, key=str.encode),
            min(tracks, key=str.encode) if window[1] == "track" else None,
            sum(min(len(listens), self.rules.listens_per_user) for listens in users.values()),
            len(users),
        )


def windows_of(events: Sequence[Sent], rules: TrendingRules) -> dict[Window, Row]:
    """Return what a batch computation over all events says: nothing comes too late for it."""
    reference = TrendingReference(rules)
    reference.count(events)
    return reference.windows()
