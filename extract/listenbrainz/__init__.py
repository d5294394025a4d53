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
import pyarrow as pa

from extract.listenbrainz.client import Bounds, ListenBrainzClient
from extract.listenbrainz.windows import Interval, merge, plan
from extract.pipeline import RAW_CONTRACT, Landed, Landing, dlt_items, landing
from extract.rows import RowBuilder, timestamps
from music_pulse.settings import Settings

logger = logging.getLogger(__name__)

SOURCE = "listenbrainz"
BATCH_WINDOWS = 30
"""Windows of one load package: at 3 requests a second, about 10 s of reading are lost by a kill."""

COUNTS_SCHEMA = pa.schema(
    [
        pa.field("user_name", pa.string(), nullable=False),
        pa.field("listen_count", pa.int64(), nullable=False),
        pa.field("checked_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

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
        done = dlt.current.source_state().setdefault("intervals", {})
        name = user.user_name
        for window in windows:
            yield from _window_rows(client, target, user, window)
            # Saved with the load package: an interval counts as read once its rows are committed.
            done[name] = [list(pair) for pair in merge([*_intervals(done.get(name)), window])]

    @dlt.resource(write_disposition="append", schema_contract=RAW_CONTRACT)
    def listen_counts() -> Iterator[pa.Table]:
        counts = [[user.user_name], [user.listen_count], timestamps([int(time.time())])]
        yield pa.table(counts, schema=COUNTS_SCHEMA)

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
    token = settings.listenbrainz_token
    with (
        ListenBrainzClient(
            settings.listenbrainz_url,
            token=token.get_secret_value() if token else None,
            connect_timeout=settings.listenbrainz_connect_timeout,
            read_timeout=settings.listenbrainz_read_timeout,
            attempts=settings.listenbrainz_attempts,
        ) as client,
        landing(settings, SOURCE) as target,
    ):
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
    bounds: Bounds = client.bounds(name)
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
