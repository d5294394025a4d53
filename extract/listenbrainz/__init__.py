"""ListenBrainz API -> raw.listens, raw.quarantine, raw.listen_counts.

Alone: python -m extract.listenbrainz --user NAME
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import dlt

from extract.listenbrainz.client import Bounds, ListenBrainzClient
from extract.listenbrainz.common import BATCH_WINDOWS, SOURCE, client_for, counts_table, verified_of
from extract.listenbrainz.comparison import Verified, overlay
from extract.listenbrainz.held import known_name, unknown_user
from extract.listenbrainz.windows import Interval, merge, plan, subtract
from extract.pipeline import RAW_CONTRACT, Landed, Landing, dlt_items, landing
from extract.rows import RowBuilder
from music_pulse.errors import UnknownUserError
from music_pulse.settings import Settings

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with (user_name, windows done, windows in all)."""


@dataclass
class UserPlan:
    """What is still to read of one user, newest window first."""

    user_name: str
    listen_count: int
    windows: list[Interval]
    total: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = len(self.windows)


@dlt.source(name=SOURCE)
def listenbrainz(client: ListenBrainzClient, target: Landing, user: UserPlan, windows: Sequence[Interval]) -> Any:
    """Listens of one user in `windows`, and the count that ListenBrainz reports."""

    @dlt.resource(write_disposition="append", schema_contract=RAW_CONTRACT)
    def listens() -> Iterator[Any]:
        state = dlt.current.source_state()
        done = state.setdefault("intervals", {})
        name = user.user_name
        verified, read_at = verified_of(state, name), int(time.time())
        for window in windows:
            yield from _window_rows(client, target, user, window)
            intervals = _intervals(done.get(name))
            # Where nothing was held yet, there was nothing else to compare.
            for start, end in subtract(window, intervals):
                verified = overlay(verified, Verified(start, end, read_at))
            # Saved with the load package: an interval counts as read once its rows are committed.
            done[name] = [list(pair) for pair in merge([*intervals, window])]
            state.setdefault("verified", {})[name] = [list(piece) for piece in verified]

    @dlt.resource(write_disposition="append", schema_contract=RAW_CONTRACT)
    def listen_counts() -> Iterator[Any]:
        yield counts_table(user.user_name, user.listen_count, int(time.time()))

    return listens, listen_counts


def extract_listenbrainz(
    settings: Settings,
    users: Sequence[str],
    *,
    since: int | None = None,
    progress: Progress = lambda *_: None,
) -> Landed:
    """Land what is new of `users`: the whole history first, newest windows first, then what came since.

    `since` (seconds since 1970) leaves out what was listened to before. Raises `ExternalAPIError`.
    """
    landed = Landed()
    with client_for(settings) as client, landing(settings, SOURCE) as target:
        target.blocklist.refuse(users)
        for name in users:
            user = _plan_user(client, target, settings, name, since)
            progress(user.user_name, 0, user.total)
            landed += _extract_user(client, target, user, progress)
    return landed


def _extract_user(client: ListenBrainzClient, target: Landing, user: UserPlan, progress: Progress) -> Landed:
    landed = Landed()
    for start in range(0, max(user.total, 1), BATCH_WINDOWS):
        batch = user.windows[start : start + BATCH_WINDOWS]
        landed += target.run(listenbrainz(client, target, user, batch))
        progress(user.user_name, min(start + BATCH_WINDOWS, user.total), user.total)
    return landed


def _plan_user(
    client: ListenBrainzClient, target: Landing, settings: Settings, name: str, since: int | None
) -> UserPlan:
    try:
        bounds: Bounds = client.bounds(name)
    except UnknownUserError as error:
        raise unknown_user(target.connection, name, error) from None
    if not bounds.latest_ts:  # no listen tells how the name is spelt
        bounds = bounds._replace(user_name=known_name(target.connection, name) or name)
    count = client.listen_count(name)
    done = _intervals(target.state(SOURCE).get("intervals", {}).get(bounds.user_name))
    windows: list[Interval] = []
    if bounds.latest_ts:
        windows = plan(
            bounds.oldest_ts,
            bounds.latest_ts,
            done,
            since=since,
            lookback_s=settings.listenbrainz_lookback_hours * 3600,
        )
    logger.info("%s: %d listens reported, %d windows to read", bounds.user_name, count, len(windows))
    return UserPlan(bounds.user_name, count, windows)


def _window_rows(client: ListenBrainzClient, target: Landing, user: UserPlan, window: Interval) -> Iterator[Any]:
    builder = RowBuilder(SOURCE, user_name=user.user_name, known=target.landed_hashes(SOURCE, user.user_name, *window))
    for page in client.pages(user.user_name, window):
        for listen in page:
            builder.add(listen)
        if builder.is_full:
            yield from dlt_items(builder.take())
    yield from dlt_items(builder.take())


def _intervals(pairs: Any) -> list[Interval]:
    return [(int(start), int(end)) for start, end in pairs or []]


__all__ = ["extract_listenbrainz", "listenbrainz"]
