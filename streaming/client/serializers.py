"""Values to bytes and back: one small protocol; JSON and text here, Avro in `avro.py`."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import orjson

from music_pulse.listens import from_json, to_json
from streaming.client.errors import SerializationError

T = TypeVar("T")


class Serializer(Protocol[T]):
    """Turns values into bytes and bytes into values; what it can't raises `SerializationError`."""

    def serialize(self, value: T) -> bytes:
        """Encode."""

    def deserialize(self, data: bytes) -> T:
        """Decode."""


class BytesSerializer:
    """Passes bytes through: for what was encoded before."""

    def serialize(self, value: bytes) -> bytes:
        """Return `value`."""
        return value

    def deserialize(self, data: bytes) -> bytes:
        """Return `data`."""
        return data


class StringSerializer:
    """Text as UTF-8.

    >>> StringSerializer().serialize("Björk")
    b'Bj\\xc3\\xb6rk'
    """

    def serialize(self, value: str) -> bytes:
        """Encode; a lone surrogate is refused."""
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise SerializationError(f"text that is not Unicode: {error.reason}") from None

    def deserialize(self, data: bytes) -> str:
        """Decode; anything but UTF-8 is refused."""
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise SerializationError(f"not UTF-8: {error.reason} at byte {error.start}") from None


class JsonSerializer:
    """JSON, compact. What only Python's own encoder can take (huge integers, lone surrogates) it takes, escaped.

    >>> JsonSerializer().deserialize(JsonSerializer().serialize({"a": [1, None]}))
    {'a': [1, None]}
    """

    def serialize(self, value: Any) -> bytes:
        """Encode."""
        try:
            return orjson.dumps(value)
        except TypeError:
            try:
                return to_json(value).encode()
            except (TypeError, ValueError, RecursionError) as error:
                raise SerializationError(f"can't be written as JSON: {error}") from None

    def deserialize(self, data: bytes) -> Any:
        """Decode."""
        try:
            return from_json(data)
        except ValueError as error:
            raise SerializationError(f"not JSON: {error}") from None
