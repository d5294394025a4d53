"""Maloja's export: `maloja_export_*.json`, and what its API gives (`/apis/mlj_1/scrobbles`).

`{"maloja": {...}, "scrobbles": [...]}` (krateng/maloja, maloja/proccontrol/tasks/export.py), or `{"list": [...]}`.

Start of play: `time`. Maloja keeps the time that a scrobbler sends as it is, and takes the present where none is sent
(maloja/database/__init__.py, incoming_scrobble); scrobblers send the start. Time zone: `time` is in seconds since 1970,
UTC. `duration` is "how long the track was played", `track.length` how long it is, both in seconds.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from extract.exports.caches import parts
from extract.exports.format import Format, Head, json_reader
from extract.exports.plays import Values, length_ms
from music_pulse.listens import MAX_DURATION_MS, RefusedListen

_PATHS = (("scrobbles",), ("list",))


class Album(msgspec.Struct, gc=False):
    """`albumtitle` since version 3.1, `name` in its API."""

    albumtitle: str | None = None
    name: str | None = None


class Track(msgspec.Struct, gc=False):
    """What was played."""

    artists: list[str]
    title: str
    album: Album | None = None
    length: float | None = None


class Scrobble(msgspec.Struct, gc=False):
    """One play."""

    time: int
    track: msgspec.Raw
    duration: Annotated[float, msgspec.Meta(ge=0, le=MAX_DURATION_MS / 1000)] | None = None
    origin: str | None = None


def to_play(scrobble: Scrobble) -> Values:
    """Read one scrobble."""
    played = scrobble.duration
    artist_name, title, album_name, length = _TRACKS[bytes(scrobble.track)]
    return (
        scrobble.time,
        artist_name,
        title,
        album_name,
        length,
        None if played is None else int(played * 1000),
        None,
        None,
        None,
        scrobble.origin,
        None,
    )


def _track(track: Track) -> tuple[str, str, str | None, int | None]:
    """Return artist, title, album and length; several artists become one name."""
    if not track.artists:
        raise RefusedListen("artists is empty")
    album = track.album
    album_name = (album.albumtitle or album.name or None) if album else None
    return ", ".join(track.artists), track.title, album_name, length_ms(track.length)


_TRACKS = parts("track", Track, _track)


def _recognises(head: Head) -> bool:
    scrobble = next((found for path in _PATHS if (found := head.record(path))), {})
    return "time" in scrobble and isinstance(scrobble.get("track"), dict) and "artists" in scrobble["track"]


FORMAT = Format(
    name="maloja",
    source="maloja",
    file_names=re.compile(r"maloja_export.*\.json", re.IGNORECASE),
    recognises=_recognises,
    read=json_reader(to_play, Scrobble, *_PATHS),
)
