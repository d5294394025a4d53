"""Spotify's account data, the last year: `StreamingHistory*.json`, of late `StreamingHistory_music_*.json`.

Start of play: `endTime - msPlayed`. `endTime` is the "date and time of when the stream ended in UTC format", here to
the minute, `msPlayed` "for how many milliseconds the track was played" (support.spotify.com/article/understanding-my-
data). So a start may be up to a minute early, and two plays may fall on one second. Time zone: UTC, says the same
page.
"""

from __future__ import annotations

import re
from typing import Any

from extract.exports.format import Format, Head, json_reader
from extract.exports.plays import Play, milliseconds, utc_seconds
from music_pulse.listens import RefusedListen


def to_play(record: dict[str, Any]) -> Play:
    """Read one stream; podcasts look like tracks here."""
    played_ms = milliseconds(record["msPlayed"])
    if played_ms is None:
        raise RefusedListen("msPlayed is no length")
    try:
        ended_at = utc_seconds(record["endTime"])
    except ValueError:
        raise RefusedListen("endTime is no time") from None
    return Play(ended_at - played_ms // 1000, record["artistName"], record["trackName"], None, None, played_ms)


def _recognises(head: Head) -> bool:
    return head.record().keys() >= {"endTime", "artistName", "trackName", "msPlayed"}


FORMAT = Format(
    name="spotify_short",
    source="spotify_short",
    file_names=re.compile(r"StreamingHistory(?:_music_)?\d+\.json", re.IGNORECASE),
    recognises=_recognises,
    read=json_reader(to_play),
)
