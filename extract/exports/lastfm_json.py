"""Last.fm scrobbles as JSON: the pages of `user.getRecentTracks`, as exporters save them.

A list of pages, `[{"track": [...]}, ...]` (lastfm.ghan.nl/export), each maybe within `recenttracks`; or one
`{"recenttracks": {"track": [...]}}`.

Start of play: `date.uts`: a scrobble's timestamp is "the time the track started playing, in UNIX timestamp format"
(last.fm/api/show/track.scrobble). Time zone: UTC. It doesn't say for how long it was played.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, cast

import msgspec

from extract.exports.caches import ABSENT, MBID_LISTS, MBIDS, NAMES, parts
from extract.exports.format import Format, Head, json_reader
from extract.exports.json_array import Element
from extract.exports.plays import Values
from music_pulse.listens import RefusedListen

_ONE_PAGE = ("recenttracks", "track")


class Named(msgspec.Struct, gc=False):
    """An artist or an album; `name` where the exporter asked for more about artists."""

    text: str | None = msgspec.field(name="#text", default=None)
    name: str | None = None
    mbid: str | None = None


class Date(msgspec.Struct, gc=False):
    """When a track was played."""

    uts: str | int


class Track(msgspec.Struct, gc=False):
    """One scrobble."""

    artist: msgspec.Raw
    name: str
    album: msgspec.Raw = ABSENT
    mbid: str | None = None
    date: Date | None = None
    attributes: dict[str, Any] | None = msgspec.field(name="@attr", default=None)


class Page(msgspec.Struct, gc=False):
    """Some tracks; maybe within `recenttracks`."""

    track: list[msgspec.Raw] | None = None
    recenttracks: Page | None = None


class PageOfOne(msgspec.Struct, gc=False):
    """Last.fm makes JSON of XML: a list of one track is that track."""

    track: msgspec.Raw = ABSENT
    recenttracks: PageOfOne | None = None


_decode_page_of_one = msgspec.json.Decoder(PageOfOne).decode
_decode_page = msgspec.json.Decoder(Page).decode
_decode_pages = msgspec.json.Decoder(list[Page]).decode


def to_play(track: Track) -> Values | None:
    """Read one track; the one that is still playing has no date."""
    if track.date is None:
        if track.attributes and track.attributes.get("nowplaying"):
            return None
        raise RefusedListen("listened_at is missing")
    uts = track.date.uts
    artist_name, artist_mbids = _ARTISTS[bytes(track.artist)]
    album_name, album_mbid = _ALBUMS[bytes(track.album)]
    return (
        int(uts) if type(uts) is str and uts.isdecimal() else uts,
        artist_name,
        NAMES[track.name],
        album_name,
        None,
        None,
        MBIDS[track.mbid],
        album_mbid,
        artist_mbids,
        None,
        None,
    )


_ARTISTS = parts("artist", Named, lambda artist: (artist.text or artist.name, MBID_LISTS[artist.mbid]))
_ALBUMS = parts("album", Named | None, lambda album: (album.text or None, MBIDS[album.mbid]) if album else (None, None))


def _pages(array: bytes | msgspec.Raw) -> list[list[msgspec.Raw]]:
    """Read the tracks of each page. Raises `msgspec.ValidationError` where something is no page."""
    pages = [_tracks_of(page) for page in _decode_pages(array)]
    if None in pages:
        raise msgspec.ValidationError("not a page")
    return cast(list[list[msgspec.Raw]], pages)


def _tracks(elements: list[Element]) -> list[Element]:
    """Return the tracks of pages; what is no page is a track, or nothing."""
    tracks: list[Element] = []
    for element in elements:
        found = element if type(element) is list else None
        if found is None:
            with suppress(msgspec.DecodeError):
                found = _tracks_of_page(element)
        tracks += [element] if found is None else found
    return tracks


def _tracks_of_page(element: Element) -> list[msgspec.Raw] | None:
    try:
        return _tracks_of(_decode_page(element))
    except msgspec.ValidationError:
        page = _decode_page_of_one(element)
        track = (page.recenttracks or page).track
        return [track] if bytes(track).startswith(b"{") else None


def _tracks_of(page: Page) -> list[msgspec.Raw] | None:
    return page.recenttracks.track if page.recenttracks else page.track


def _recognises(head: Head) -> bool:
    first = head.record(_ONE_PAGE) or head.record()
    page = first.get("recenttracks", first)
    tracks = page.get("track", page) if isinstance(page, dict) else []
    tracks = [tracks] if isinstance(tracks, dict) else tracks
    return bool(tracks) and isinstance(tracks[0], dict) and tracks[0].keys() >= {"artist", "name", "mbid"}


FORMAT = Format(
    name="lastfm_json",
    source="lastfm",
    file_names=re.compile(r"(?:recenttracks|scrobbles|lastfm).*\.json", re.IGNORECASE),
    recognises=_recognises,
    read=json_reader(to_play, Track, _ONE_PAGE, (), elements=_pages, flatten=_tracks),
)
