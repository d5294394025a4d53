"""Who is who: the ids of listens, artists and tracks, computed once, at the edge.

(user_name, listened_at, artist_name, track_name) -> listen_id, artist_id, track_id

`key` folds a name to what makes two spellings one: NFC, outer white space off, lower case. Python's
`str.lower` is the rule, since databases and Arrow kernels disagree on `İ`, final `Σ` and more.
An id is the md5 of its parts, UTF-8, joined by U+001F, as a UUID.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple
from uuid import UUID

try:  # CPython's own: for a text as short as these, OpenSSL's takes twice as long
    from _md5 import md5 as md5  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    md5 = partial(hashlib.md5, usedforsecurity=False)

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
    digest: bytes = md5(data).digest()
    return digest


class Track(NamedTuple):
    """What all listens of one (artist_name, track_name) share; ids as 16 bytes."""

    artist_name: str
    track_name: str
    artist_id: bytes
    track_id: bytes
    artist_key: str
    track_key: str


@dataclass(frozen=True)
class Identities:
    """The ids (16 bytes each) and keys of a batch of listens, row by row."""

    listen_ids: list[bytes]
    numbers: list[int]
    """The track of a listen, as its place in `tracks`."""
    tracks: list[Track]

    @property
    def artist_ids(self) -> list[bytes]:
        """One for each listen."""
        return [self.tracks[number].artist_id for number in self.numbers]

    @property
    def track_ids(self) -> list[bytes]:
        """One for each listen."""
        return [self.tracks[number].track_id for number in self.numbers]

    @property
    def artist_keys(self) -> list[str]:
        """One for each listen."""
        return [self.tracks[number].artist_key for number in self.numbers]

    @property
    def track_keys(self) -> list[str]:
        """One for each listen."""
        return [self.tracks[number].track_key for number in self.numbers]


class _Numbers(dict[tuple[str, str], int]):
    """(artist_name, track_name) -> its place in `tracks`, which grows when one is first asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.tracks: list[Track] = []
        self.suffixes: list[bytes] = []
        """The end of the string that `listen_id` hashes, of each track."""

    def __missing__(self, names: tuple[str, str]) -> int:
        artist_name, track_name = names
        artist_key, track_key = key(artist_name), key(track_name)
        pair = (artist_key + SEPARATOR + track_key).encode()
        number = self[names] = len(self.tracks)
        self.tracks.append(Track(*names, _md5(artist_key.encode()), _md5(pair), artist_key, track_key))
        self.suffixes.append(SEPARATOR.encode() + pair)
        return number


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
        self._numbers = _Numbers()
        self._users = _Users()

    def identify(
        self,
        user_names: Sequence[str],
        listened_at: Sequence[int],
        artist_names: Sequence[str],
        track_names: Sequence[str],
    ) -> Identities:
        """Compute the identities of listens given as four columns of one length."""
        if len(self._numbers) >= _CACHE_SIZE:
            self._numbers = _Numbers()
        known, users = self._numbers, self._users
        numbers = [known[names] for names in zip(artist_names, track_names, strict=True)]
        suffixes = known.suffixes
        listens = [
            md5(b"%b%d%b" % (users[user], second, suffixes[number])).digest()
            for user, second, number in zip(user_names, listened_at, numbers, strict=True)
        ]
        return Identities(listens, numbers, known.tracks)
