"""Koito's export: `koito_export_*.json`, `{"version": "1", "user": ..., "listens": [...]}`.

The form is gabehf/Koito's internal/export/export.go. Start of play: `listened_at`: Koito takes it from what scrobblers
send in ListenBrainz' form, where it is the start. Time zone: RFC 3339 in UTC (`item.ListenedAt.UTC()` there).
`track.duration` is the track's length in seconds, 0 where unknown; for how long it was played is not told. Names are
lists of aliases, of which one is primary.
"""

from __future__ import annotations

import re
from typing import Any

from extract.exports.format import Format, Head, json_reader
from extract.exports.plays import MBIDS, Play, milliseconds, utc_seconds
from music_pulse.listens import RefusedListen, to_json

_PATH = ("listens",)


def to_play(listen: dict[str, Any]) -> Play:
    """Read one listen; several artists become one name."""
    try:
        listened_at = utc_seconds(listen["listened_at"])
    except ValueError:
        raise RefusedListen("listened_at is no time") from None
    track, album, artists = listen["track"], listen.get("album") or {}, listen["artists"] or []
    names = [_name(artist) for artist in artists]
    mbids = [artist["mbid"] for artist in artists if artist.get("mbid")]
    return Play(
        listened_at,
        (names[0] if len(names) == 1 else ", ".join(filter(None, names))) if names else None,
        _name(track),
        _name(album),
        milliseconds(track.get("duration"), 1000) or None,
        recording_mbid=MBIDS[track.get("mbid")],
        release_mbid=MBIDS[album.get("mbid")],
        # A list with a gap would name other artists than the listen.
        artist_mbids=to_json(mbids) if mbids and len(mbids) == len(artists) else None,
        submission_client=listen.get("client") or None,
    )


def _name(entity: dict[str, Any]) -> str | None:
    """Return the primary alias, else the first."""
    aliases = entity.get("aliases") or []
    for alias in aliases:
        if alias.get("is_primary"):
            return alias["alias"] or None
    return aliases[0]["alias"] if aliases else None


def _recognises(head: Head) -> bool:
    listen = head.record(_PATH)
    return "listened_at" in listen and isinstance(listen.get("track"), dict) and "aliases" in listen["track"]


FORMAT = Format(
    name="koito",
    source="koito",
    file_names=re.compile(r"koito_export.*\.json", re.IGNORECASE),
    recognises=_recognises,
    read=json_reader(to_play, _PATH),
)
