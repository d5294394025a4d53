"""Spotify's extended streaming history: `Streaming_History_Audio_*.json`, formerly `endsong_*.json`.

Start of play: `ts - ms_played`. `ts` is "a timestamp indicating when the track stopped playing in UTC", `ms_played`
"the number of milliseconds the stream was played" (ReadMeFirst_ExtendedStreamingHistory.pdf, in the download;
likewise support.spotify.com/article/understanding-my-data). Time zone: UTC, says the same source.

`offline_timestamp` is not used: that PDF says only that it is "of when offline mode was used, if used", its unit
changed from milliseconds to seconds, and listeners found it in 1970 (blog.ortham.net/posts/2024-12-21-spotify-
streaming-history-part-1). For plays without a network `ts` is as good as the device's clock.

Podcasts, audiobooks and videos without a track are no music. Who it was, from where and on what is not kept.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from extract.exports.format import Format, Head, json_reader
from extract.exports.plays import Play, milliseconds, utc_seconds
from music_pulse.listens import RefusedListen

_KEPT = ("spotify_track_uri", "reason_start", "reason_end", "shuffle", "skipped", "offline", "incognito_mode")


def to_play(record: dict[str, Any]) -> Play | None:
    """Read one stream."""
    track = record["master_metadata_track_name"]
    if track is None:
        return None
    played_ms = milliseconds(record["ms_played"])
    if played_ms is None:
        raise RefusedListen("ms_played is no length")
    try:
        ended_at = utc_seconds(record["ts"])
    except ValueError:
        raise RefusedListen("ts is no time") from None
    info = {name: value for name in _KEPT if (value := record.get(name)) is not None}
    return Play(
        ended_at - played_ms // 1000,
        record["master_metadata_album_artist_name"],
        track,
        record["master_metadata_album_album_name"] or None,
        None,
        played_ms,
        additional_info=orjson.dumps(info).decode(),
    )


def _recognises(head: Head) -> bool:
    return head.record().keys() >= {"ts", "ms_played", "master_metadata_track_name"}


FORMAT = Format(
    name="spotify_extended",
    source="spotify_extended",
    file_names=re.compile(r"(?:endsong|Streaming_History_(?:Audio|Video))_.*\.json", re.IGNORECASE),
    recognises=_recognises,
    read=json_reader(to_play),
)
