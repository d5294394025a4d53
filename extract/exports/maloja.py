"""Maloja's export: `maloja_export_*.json`, and what its API gives (`/apis/mlj_1/scrobbles`).

`{"maloja": {...}, "scrobbles": [...]}` (krateng/maloja, maloja/proccontrol/tasks/export.py), or `{"list": [...]}`.

Start of play: `time`. Maloja keeps the time that a scrobbler sends as it is, and takes the present where none is sent
(maloja/database/__init__.py, incoming_scrobble); scrobblers send the start. Time zone: `time` is in seconds since 1970,
UTC. `duration` is "how long the track was played", `track.length` how long it is, both in seconds.
"""

from __future__ import annotations

import re
from typing import Any

from extract.exports.format import Format, Head, json_reader
from extract.exports.plays import Play, milliseconds
from music_pulse.listens import RefusedListen

_PATHS = (("scrobbles",), ("list",))


def to_play(scrobble: dict[str, Any]) -> Play:
    """Read one scrobble; several artists become one name."""
    track = scrobble["track"]
    artists = track["artists"]
    if not artists:
        raise RefusedListen("artists is empty")
    album = track.get("album") or {}
    return Play(
        scrobble["time"],
        artists[0] if len(artists) == 1 else ", ".join(artists),
        track["title"],
        album.get("albumtitle") or album.get("name") or None,
        milliseconds(track.get("length"), 1000) or None,
        milliseconds(scrobble.get("duration"), 1000),
        submission_client=scrobble.get("origin"),
    )


def _recognises(head: Head) -> bool:
    scrobble = next((found for path in _PATHS if (found := head.record(path))), {})
    return "time" in scrobble and isinstance(scrobble.get("track"), dict) and "artists" in scrobble["track"]


FORMAT = Format(
    name="maloja",
    source="maloja",
    file_names=re.compile(r"maloja_export.*\.json", re.IGNORECASE),
    recognises=_recognises,
    read=json_reader(to_play, *_PATHS),
)
