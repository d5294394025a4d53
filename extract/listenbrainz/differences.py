"""Why ListenBrainz' count still differs from what is held: the windows that account for it, in words; no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from extract.listenbrainz.comparison import Verified
from extract.listenbrainz.windows import Interval

_MOST = 5
"""Windows that are named; the others are counted."""


class Change(NamedTuple):
    """A window in which ListenBrainz showed other listens than were held; what it shows is held now."""

    window: Interval
    shown: int
    """Listens."""
    added: int
    """Those that were not held."""
    lost: int
    """Those that were held and are not among `shown`."""


class Group(NamedTuple):
    """Some listens and the seconds they lie in."""

    listens: int
    window: Interval


@dataclass(frozen=True)
class Known:
    """What may account for a difference."""

    changes: Sequence[Change] = ()
    """What the windows told that were just compared."""
    recent: Group | None = None
    """Held, and taken in by ListenBrainz within the last minutes."""
    deleted: Group | None = None
    """Deleted there, as earlier reconciliations of the last hour found."""
    timeless: int = 0
    """Refused records that tell no time, so that no window can show them."""


def explain(difference: int, known: Known, verified: Sequence[Verified], *, compared: int) -> str:
    """Say where and why ListenBrainz reports `difference` (not 0) more listens than are held.

    `verified` is what was compared at any time, oldest first; `compared` how many windows were just now, if all were.
    """
    left, told = abs(difference), []
    for listens, where, why in _causes(difference, known):
        told.append(f"{min(listens, left):,} {where}: {why}")
        left -= min(listens, left)
        if not left:
            break
    if len(told) > _MOST:
        told[_MOST:] = [f"and {len(told) - _MOST} windows more"]
    if left:
        told.append(f"{left:,} in no window: {_compared(verified, compared)}")
    return "; ".join(told)


def _causes(difference: int, known: Known) -> list[tuple[int, str, str]]:
    """Return how many listens, where and why, the likeliest first."""
    causes: list[tuple[int, str, str]] = []
    if difference > 0:
        why = "deleted there, and deletions leave ListenBrainz' count by the hour"
        causes += [(change.lost, _place(change), why) for change in known.changes if change.lost]
        if known.deleted:
            causes.append((known.deleted.listens, f"from {_span(known.deleted.window)}", why))
    else:
        why = "new there, and ListenBrainz' count is cached for up to 5 minutes"
        if known.recent:
            causes.append((known.recent.listens, f"from {_span(known.recent.window)}", why))
        causes += [(change.added, _place(change), why) for change in known.changes if change.added]
        if known.timeless:
            causes.append((known.timeless, "in no window", "refused records without a time, which no page shows"))
    return causes


def _place(change: Change) -> str:
    held = change.shown - change.added + change.lost
    return f"in the window {_span(change.window)} ({change.shown:,} shown and held now, {held:,} held before)"


def _compared(verified: Sequence[Verified], compared: int) -> str:
    if not verified:
        return "nothing was compared yet"
    span = _span((verified[0].start, verified[-1].end))
    if compared:
        return (
            f"every window was compared just now ({compared:,} from {span}) and holds what ListenBrainz shows (pages "
            "are cached for up to an hour): its count is off, or old"
        )
    at = _time(min(piece.at for piece in verified))
    return f"as before, when every window from {span} had been compared (since {at}), ListenBrainz' count is off"


def _span(window: Interval) -> str:
    start, end = window
    return f"{_time(start)} to {_time(end)} UTC"


def _time(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S}"
