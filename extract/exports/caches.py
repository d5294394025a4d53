"""What many records repeat, computed once: MBIDs, and parts of a record such as an artist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from music_pulse.listens import uuid_bytes

_SIZE = 100_000
_LONGEST = 1_000
"""Characters or bytes of a key that is remembered."""
_ROOM = 20_000_000
"""Those of all keys together."""

K = TypeVar("K", bound=str | bytes | tuple[Any, ...] | None)
V = TypeVar("V")


class Cache(dict[K, V]):
    """`cache[key]` is what `compute(key)` returns, each computed once. Bounded."""

    def __init__(self, compute: Callable[[K], V]) -> None:
        super().__init__()
        self._compute = compute
        self._held = 0

    def __missing__(self, key: K) -> V:
        value = self._compute(key)
        length = _length(key)
        if length <= _LONGEST:
            if len(self) >= _SIZE or self._held + length > _ROOM:
                self.clear()
                self._held = 0
            self._held += length
            self[key] = value
        return value


def _length(key: Any) -> int:
    """Count the characters or bytes of a key, or of the texts in one."""
    if isinstance(key, tuple):
        return sum(map(_length, key))
    return 0 if key is None or isinstance(key, bool) else len(key)


NAMES: Cache[str | None, str | None] = Cache(lambda name: name)
"""A name as it is: plays that share one text instead of equal ones are compared and hashed far faster."""

MBIDS: Cache[str | None, bytes | None] = Cache(uuid_bytes)
"""`MBIDS[text]` is a UUID's bytes, None for anything else."""

MBID_LISTS: Cache[str | None, str | None] = Cache(lambda text: f'["{text}"]' if uuid_bytes(text) else None)
"""`MBID_LISTS[text]` is a JSON list of one UUID, None for anything else."""

ABSENT = msgspec.Raw(b"null")
"""A part that a record lacks."""


def parts(name: str, type: Any, read: Callable[[Any], V]) -> Cache[bytes, V]:
    """Return what `read` makes of a part of a record, by the bytes of its JSON: looked up far faster than decoded.

    `name` is where it stands in a record, `type` what msgspec makes of it. A lookup raises `msgspec.DecodeError` as
    decoding the whole record would.
    """
    decode = msgspec.json.Decoder(type).decode

    def decoded(part: bytes) -> V:
        try:
            return read(decode(part))
        except msgspec.ValidationError as error:
            what, _, place = str(error).partition(" - at `$")
            raise msgspec.ValidationError(f"{what} - at `$.{name}{place or '`'}") from None

    return Cache(decoded)
