"""What reading and reconciling share: the client, the counts, the note of what was compared when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from extract.listenbrainz.client import ListenBrainzClient
from extract.listenbrainz.comparison import Verified
from extract.rows import timestamps
from music_pulse.settings import Settings

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


def client_for(settings: Settings) -> ListenBrainzClient:
    """Return a client for the API that `settings` name."""
    token = settings.listenbrainz_token
    return ListenBrainzClient(
        settings.listenbrainz_url,
        token=token.get_secret_value() if token else None,
        connect_timeout=settings.listenbrainz_connect_timeout,
        read_timeout=settings.listenbrainz_read_timeout,
        attempts=settings.listenbrainz_attempts,
    )


def counts_table(user_name: str, listen_count: int, checked_at: int) -> pa.Table:
    """Make the row of `raw.listen_counts`; `checked_at` in seconds since 1970."""
    return pa.table([[user_name], [listen_count], timestamps([checked_at])], schema=COUNTS_SCHEMA)


def verified_of(state: Mapping[str, Any], user_name: str) -> list[Verified]:
    """Return when which seconds of a user were last compared, from the state of the source."""
    return [Verified(*map(int, piece)) for piece in state.get("verified", {}).get(user_name, [])]
