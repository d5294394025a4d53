"""Koito's export: `koito_export_*.json`, `{"version": "1", "user": ..., "listens": [...]}`.

The form is gabehf/Koito's internal/export/export.go. Start of play: `listened_at`: Koito takes it from what scrobblers
send in ListenBrainz' form, where it is the start. Time zone: RFC 3339 in UTC (`item.ListenedAt.UTC()` there).
`track.duration` is the track's length in seconds, 0 where unknown; for how long it was played is not told. Names are
lists of aliases, of which one is primary.
"""

from __future__ import annotations

import re

import msgspec

from extract.exports.caches import ABSENT, MBIDS, parts
from extract.exports.format import Format, Head, json_reader
from extract.exports.plays import Moment, Values, length_ms, utc_seconds_of
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
    track: msgspec.Raw
    artists: msgspec.Raw = ABSENT
    album: msgspec.Raw = ABSENT
    client: str | None = None


def to_play(listen: Listen) -> Values:
    """Read one listen."""
    track_name, length, track_mbid = _TRACKS[bytes(listen.track)]
    artist_name, artist_mbids = _ARTISTS[bytes(listen.artists)]
    album_name, album_mbid = _ALBUMS[bytes(listen.album)]
    return (
        utc_seconds_of(listen.listened_at),
        artist_name,
        track_name,
        album_name,
        length,
        None,
        track_mbid,
        album_mbid,
        artist_mbids,
        listen.client or None,
        None,
    )


def _artists(artists: list[Entity] | None) -> tuple[str | None, str | None]:
    """Return one name of all artists, and their MBIDs as a JSON list."""
    name = ", ".join(filter(None, map(_name, artists or []))) or None
    mbids = [artist.mbid for artist in artists or [] if MBIDS[artist.mbid]]
    # A list with a gap would name other artists than the listen.
    return name, to_json(mbids) if mbids and len(mbids) == len(artists or []) else None


def _name(entity: Entity) -> str | None:
    """Return the primary alias, else the first."""
    if not entity.aliases:
        return None
    for alias in entity.aliases:
        if alias.is_primary:
            return alias.alias or None
    return entity.aliases[0].alias or None


_TRACKS = parts("track", Entity, lambda track: (_name(track), length_ms(track.duration), MBIDS[track.mbid]))
_ALBUMS = parts("album", Entity | None, lambda album: (_name(album), MBIDS[album.mbid]) if album else (None, None))
_ARTISTS = parts("artists", list[Entity] | None, _artists)


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
