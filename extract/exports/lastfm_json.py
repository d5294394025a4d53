"""Last.fm scrobbles as JSON: the pages of `user.getRecentTracks`, as exporters save them.

A list of pages, `[{"track": [...]}, ...]` (lastfm.ghan.nl/export), each maybe within `recenttracks`; or one
`{"recenttracks": {"track": [...]}}`.

Start of play: `date.uts`: a scrobble's timestamp is "the time the track started playing, in UNIX timestamp format"
(last.fm/api/show/track.scrobble). Time zone: UTC. It doesn't say for how long it was played.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from extract.exports.format import Format, Head, json_reader
from extract.exports.plays import MBIDS, Play

_ONE_PAGE = ("recenttracks", "track")


def to_play(track: dict[str, Any]) -> Play | None:
    """Read one track; the one that is still playing has no date."""
    if "date" not in track and (track.get("@attr") or {}).get("nowplaying"):
        return None
    artist, album = track["artist"], track.get("album") or {}
    artist_mbid = artist.get("mbid")
    uts = track["date"]["uts"]
    return Play(
        int(uts) if type(uts) is str and uts.isdecimal() else uts,
        artist.get("#text") or artist.get("name"),
        track["name"],
        album.get("#text") or None,
        recording_mbid=MBIDS[track.get("mbid")],
        release_mbid=MBIDS[album.get("mbid")],
        artist_mbids=f'["{artist_mbid}"]' if artist_mbid and MBIDS[artist_mbid] else None,
    )


def _tracks(values: Sequence[Any]) -> list[Any]:
    """Return the tracks of pages; what is no page is a track, or nothing."""
    tracks: list[Any] = []
    for value in values:
        page = value.get("recenttracks", value) if isinstance(value, dict) else {}
        tracks += page["track"] if isinstance(page.get("track"), list) else [value]
    return tracks


def _recognises(head: Head) -> bool:
    first = head.record(_ONE_PAGE) or head.record()
    tracks = _tracks([first]) if first else []
    return bool(tracks) and isinstance(tracks[0], dict) and tracks[0].keys() >= {"artist", "name", "mbid"}


FORMAT = Format(
    name="lastfm_json",
    source="lastfm",
    file_names=re.compile(r"(?:recenttracks|scrobbles|lastfm).*\.json", re.IGNORECASE),
    recognises=_recognises,
    read=json_reader(to_play, _ONE_PAGE, (), flatten=_tracks),
)
