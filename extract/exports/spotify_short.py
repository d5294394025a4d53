"""Spotify's account data, the last year: `StreamingHistory*.json`, of late `StreamingHistory_music_*.json`.

Start of play: `endTime - msPlayed`. `endTime` is the "date and time of when the stream ended in UTC format", here to
the minute, `msPlayed` "for how many milliseconds the track was played" (support.spotify.com/article/understanding-my-
data). So a start may be up to a minute early, and two plays may fall on one second. Time zone: UTC, says the same
page.
"""

from __future__ import annotations

import re

import msgspec

from extract.exports.caches import NAMES
from extract.exports.format import Format, Head, json_reader
from extract.exports.plays import Milliseconds, Values, utc_seconds


class Stream(msgspec.Struct, gc=False):
    """A stream; podcasts look like tracks here."""

    endTime: str  # noqa: N815
    artistName: str  # noqa: N815
    trackName: str  # noqa: N815
    msPlayed: Milliseconds  # noqa: N815


def to_play(stream: Stream) -> Values:
    """Read one stream."""
    started_at = utc_seconds(stream.endTime) - stream.msPlayed // 1000
    artist_name, track_name = NAMES[stream.artistName], NAMES[stream.trackName]
    return started_at, artist_name, track_name, None, None, stream.msPlayed, None, None, None, None, None


def _recognises(head: Head) -> bool:
    return head.record().keys() >= {"endTime", "artistName", "trackName", "msPlayed"}


FORMAT = Format(
    name="spotify_short",
    source="spotify_short",
    file_names=re.compile(r"StreamingHistory(?:_music_)?\d+\.json", re.IGNORECASE),
    recognises=_recognises,
    read=json_reader(to_play, Stream),
)
