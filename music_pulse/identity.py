"""Who is who: the ids of listens, artists and tracks, computed once, at the edge.

(user_name, listened_at, artist_name, track_name) -> listen_id, artist_id, track_id

`key` folds a name to what makes two spellings one: NFC, outer white space off, lower case. Python's
`str.lower` is the rule, since databases and Arrow kernels disagree on `İ`, final `Σ` and more.
An id is the md5 of its parts, UTF-8, joined by U+001F, as a UUID.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import md5
from typing import NamedTuple
from uuid import UUID

SEPARATOR = "\x1f"

_CACHE_SIZE = 400_000


def key(name: str) -> str:
    """Fold `name` to its identity: NFC, trimmed of Unicode white space, lower case."""
    return unicodedata.normalize("NFC", name).strip().lower()


def artist_id(artist_name: str) -> UUID:
    """Return the id of an artist of this name."""
    return _digest(key(artist_name))


def track_id(artist_name: str, track_name: str) -> UUID:
    """Return the id of the track of this name by this artist."""
    return _digest(key(artist_name), key(track_name))


def listen_id(user_name: str, listened_at: int, artist_name: str, track_name: str) -> UUID:
    """Return the id of a listen; `listened_at` is in whole seconds since 1970, UTC."""
    return _digest(key(user_name), str(listened_at), key(artist_name), key(track_name))


def _digest(*parts: str) -> UUID:
    return UUID(bytes=_md5(SEPARATOR.join(parts).encode()))


def _md5(data: bytes) -> bytes:
    return md5(data, usedforsecurity=False).digest()


class Track(NamedTuple):
    """What all listens of one (artist_name, track_name) share; ids as 16 bytes."""

    artist_id: bytes
    track_id: bytes
    artist_key: str
    track_key: str
    suffix: bytes
    """The end of the string that `listen_id` hashes."""


@dataclass(frozen=True)
class Identities:
    """The ids (16 bytes each) and keys of a batch of listens, row by row."""

    listen_ids: list[bytes]
    artist_ids: list[bytes]
    track_ids: list[bytes]
    artist_keys: list[str]
    track_keys: list[str]


class _Tracks(dict[tuple[str, str], Track]):
    """(artist_name, track_name) -> Track, computed when first asked for; bounded."""

    def __missing__(self, names: tuple[str, str]) -> Track:
        if len(self) >= _CACHE_SIZE:
            self.clear()
        track = self[names] = _track(*names)
        return track


class _Users(dict[str, bytes]):
    """user_name -> the start of the string that `listen_id` hashes; bounded."""

    def __missing__(self, user_name: str) -> bytes:
        if len(self) >= _CACHE_SIZE:
            self.clear()
        prefix = self[user_name] = (key(user_name) + SEPARATOR).encode()
        return prefix


class Identifier:
    """Computes the ids of listens in bulk, each distinct name once.

    Gives what `listen_id`, `artist_id` and `track_id` give. Its caches are bounded.
    """

    def __init__(self) -> None:
        self._tracks = _Tracks()
        self._users = _Users()

    def track(self, artist_name: str, track_name: str) -> Track:
        """Return the part of an identity that doesn't depend on the listen."""
        return self._tracks[artist_name, track_name]

    def identify(
        self,
        user_names: Sequence[str],
        listened_at: Sequence[int],
        artist_names: Sequence[str],
        track_names: Sequence[str],
    ) -> Identities:
        """Compute the identities of listens given as four columns of one length."""
        known, users = self._tracks, self._users
        tracks = [known[names] for names in zip(artist_names, track_names, strict=True)]
        listens = [
            md5(users[user] + b"%d" % second + track.suffix, usedforsecurity=False).digest()
            for user, second, track in zip(user_names, listened_at, tracks, strict=True)
        ]
        return Identities(
            listen_ids=listens,
            artist_ids=[track.artist_id for track in tracks],
            track_ids=[track.track_id for track in tracks],
            artist_keys=[track.artist_key for track in tracks],
            track_keys=[track.track_key for track in tracks],
        )


def _track(artist_name: str, track_name: str) -> Track:
    artist_key, track_key = key(artist_name), key(track_name)
    pair = artist_key + SEPARATOR + track_key
    return Track(
        artist_id=_md5(artist_key.encode()),
        track_id=_md5(pair.encode()),
        artist_key=artist_key,
        track_key=track_key,
        suffix=(SEPARATOR + pair).encode(),
    )
