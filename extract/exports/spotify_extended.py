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

import msgspec

from extract.exports.caches import NAMES, Cache
from extract.exports.format import Format, Head, json_reader
from extract.exports.plays import Milliseconds, Moment, Values, utc_seconds_of
from music_pulse.listens import to_json


class Stream(msgspec.Struct, gc=False):
    """What is read of a stream."""

    ts: Moment
    ms_played: Milliseconds
    master_metadata_track_name: str | None
    master_metadata_album_artist_name: str | None
    master_metadata_album_album_name: str | None
    spotify_track_uri: str | None = None
    reason_start: str | None = None
    reason_end: str | None = None
    shuffle: bool | None = None
    skipped: bool | None = None
    offline: bool | None = None
    incognito_mode: bool | None = None


def to_play(stream: Stream) -> Values | None:
    """Read one stream."""
    if stream.master_metadata_track_name is None:
        return None
    return (
        utc_seconds_of(stream.ts) - stream.ms_played // 1000,
        NAMES[stream.master_metadata_album_artist_name],
        NAMES[stream.master_metadata_track_name],
        NAMES[stream.master_metadata_album_album_name or None],
        None,
        stream.ms_played,
        None,
        None,
        None,
        None,
        _INFOS[
            stream.spotify_track_uri,
            stream.reason_start,
            stream.reason_end,
            stream.shuffle,
            stream.skipped,
            stream.offline,
            stream.incognito_mode,
        ],
    )


_KEPT = ("spotify_track_uri", "reason_start", "reason_end", "shuffle", "skipped", "offline", "incognito_mode")


def _info(kept: tuple[Any, ...]) -> str | None:
    """Write what is set of `_KEPT` as a JSON object; None for nothing."""
    info = {name: value for name, value in zip(_KEPT, kept, strict=True) if value}
    return to_json(info) if info else None


_INFOS: Cache[tuple[Any, ...], str | None] = Cache(_info)
"""What is kept beside the play, as JSON: many plays repeat one."""


def _recognises(head: Head) -> bool:
    return head.record().keys() >= {"ts", "ms_played", "master_metadata_track_name"}


FORMAT = Format(
    name="spotify_extended",
    source="spotify_extended",
    file_names=re.compile(r"(?:endsong|Streaming_History_(?:Audio|Video))_.*\.json", re.IGNORECASE),
    recognises=_recognises,
    read=json_reader(to_play, Stream),
)
