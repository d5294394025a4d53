"""Koito's export: `koito_export_*.json`, `{"version": "1", "user": ..., "listens": [...]}`.

The form is gabehf/Koito's internal/export/export.go. Start of play: `listened_at`: Koito takes it from what scrobblers
send in ListenBrainz' form, where it is the start. Time zone: RFC 3339 in UTC (`item.ListenedAt.UTC()` there).
`track.duration` is the track's length in seconds, 0 where unknown; for how long it was played is not told. Names are
lists of aliases, of which one is primary.
"""

from __future__ import annotations

import re

import msgspec

from extract.exports.format import Format, Head, json_reader
from extract.exports.plays import MBIDS, Moment, Play, length_ms
from music_pulse.listens import to_json

_PATH = ("listens",)


class Alias(msgspec.Struct, gc=False):
    """One name."""

    alias: str
    is_primary: bool = False


class Entity(msgspec.Struct, gc=False):
    """A track, an album or an artist."""

    aliases: list[Alias] | None = None
    mbid: str | None = None
    duration: float | None = None


class Listen(msgspec.Struct, gc=False):
    """One play."""

    listened_at: Moment
    track: Entity
    artists: list[Entity] | None = None
    album: Entity | None = None
    client: str | None = None


def to_play(listen: Listen) -> Play:
    """Read one listen; several artists become one name."""
    track, album, artists = listen.track, listen.album, listen.artists or []
    if len(artists) == 1:
        name, mbid = _name(artists[0]), artists[0].mbid
        mbids = f'["{mbid}"]' if MBIDS[mbid] else None
    else:
        name = ", ".join(filter(None, map(_name, artists))) or None
        # A list with a gap would name other artists than the listen.
        known = [artist.mbid for artist in artists if MBIDS[artist.mbid]]
        mbids = to_json(known) if known and len(known) == len(artists) else None
    return Play(
        int(listen.listened_at.timestamp()),
        name,
        _name(track),
        _name(album) if album else None,
        length_ms(track.duration),
        None,
        MBIDS[track.mbid],
        MBIDS[album.mbid] if album else None,
        mbids,
        listen.client or None,
    )


def _name(entity: Entity) -> str | None:
    """Return the primary alias, else the first."""
    if not entity.aliases:
        return None
    for alias in entity.aliases:
        if alias.is_primary:
            return alias.alias or None
    return entity.aliases[0].alias or None


def _recognises(head: Head) -> bool:
    listen = head.record(_PATH)
    return "listened_at" in listen and isinstance(listen.get("track"), dict) and "aliases" in listen["track"]


FORMAT = Format(
    name="koito",
    source="koito",
    file_names=re.compile(r"koito_export.*\.json", re.IGNORECASE),
    recognises=_recognises,
    read=json_reader(to_play, Listen, _PATH),
)
