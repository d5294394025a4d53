"""What is heard right now: schema app, one row a user, gone by itself; never a listen.

from serving.playing_now import playing_now

@router.get("/api/playing-now")
async def now(app: AppState) -> list[PlayingNow]:
    return await playing_now(app)
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from music_pulse.identity import key
from music_pulse.listens import from_json, to_json
from serving.database import Connection

LONGEST_SECONDS = 600
"""How long a track of unknown length plays."""

_READ = """
select user_name, track_metadata, started_at, expires_at
from app.playing_now
where expires_at > now() and (%(user_key)s::text is null or user_key = %(user_key)s)
order by started_at desc, user_key
limit 1000
"""

# The same track again changes nothing, its end least of all.
_WRITE = """
insert into app.playing_now as held (
    user_key, user_name, artist_name, track_name, track_metadata, started_at, expires_at
)
values (%s, %s, %s, %s, %s, now(), now() + %s * interval '1 second')
on conflict (user_key) do update
set
    user_name = excluded.user_name, artist_name = excluded.artist_name, track_name = excluded.track_name,
    track_metadata = excluded.track_metadata, started_at = excluded.started_at, expires_at = excluded.expires_at
where
    held.expires_at <= excluded.started_at
    or (held.artist_name, held.track_name) is distinct from (excluded.artist_name, excluded.track_name)
"""


class PlayingNow(NamedTuple):
    """What a user hears; `track_metadata` as it was sent, times in UTC."""

    user_name: str
    track_metadata: dict[str, Any]
    started_at: datetime
    expires_at: datetime


async def playing_now(connection: Connection, user_name: str | None = None) -> list[PlayingNow]:
    """Return what all users, or one, hear right now, the newest first."""
    cursor = await connection.execute(_READ, {"user_key": None if user_name is None else key(user_name)})
    return [PlayingNow(name, from_json(metadata), *times) for name, metadata, *times in await cursor.fetchall()]


async def put_playing_now(
    connection: Connection, user_name: str, metadata: Mapping[str, Any], duration_ms: int | None
) -> None:
    """Note what a user hears now, for as long as it plays (`duration_ms`), else for 10 minutes."""
    seconds = LONGEST_SECONDS if duration_ms is None else duration_ms // 1000
    names = [key(user_name), user_name, metadata["artist_name"], metadata["track_name"]]
    await connection.execute(_WRITE, [*names, to_json(metadata), seconds])
