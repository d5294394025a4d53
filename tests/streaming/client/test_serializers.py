from __future__ import annotations

from typing import Any

import pytest

from streaming.client import BytesSerializer, JsonSerializer, SerializationError, StringSerializer


@pytest.mark.parametrize(
    "value", [None, 0, "", "Sigur Rós", [1, "two", None], {"a": {"b": [True]}}, 2**64 - 1, "a\x00b"]
)
def test_json_gives_back_what_it_got(value: Any) -> None:
    serializer = JsonSerializer()
    assert serializer.deserialize(serializer.serialize(value)) == value


def test_json_keeps_a_lone_surrogate_escaped() -> None:
    serializer = JsonSerializer()
    encoded = serializer.serialize({"name": "\ud800"})
    assert encoded.isascii()
    assert serializer.deserialize(encoded) == {"name": "\ud800"}


def test_json_takes_an_integer_of_any_size() -> None:
    assert JsonSerializer().serialize([10**30]) == b"[1000000000000000000000000000000]"


def test_json_is_compact_and_utf_8() -> None:
    assert JsonSerializer().serialize({"a": "ß", "b": 1}) == '{"a":"ß","b":1}'.encode()


@pytest.mark.parametrize("data", [b"", b"{", b"nope", b"\xff\xfe", b'{"a":}', b"[" * 100_000])
def test_what_is_not_json_is_a_serialization_error(data: bytes) -> None:
    with pytest.raises(SerializationError):
        JsonSerializer().deserialize(data)


def test_what_json_can_not_hold_is_a_serialization_error() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(SerializationError):
        JsonSerializer().serialize(endless)


def test_text_is_utf_8_and_nothing_else() -> None:
    serializer = StringSerializer()
    assert serializer.deserialize(serializer.serialize("Ünïcode 🎵")) == "Ünïcode 🎵"
    with pytest.raises(SerializationError):
        serializer.serialize("\ud800")
    with pytest.raises(SerializationError):
        serializer.deserialize(b"\xc3\x28")


def test_bytes_pass_through() -> None:
    assert BytesSerializer().deserialize(BytesSerializer().serialize(b"\x00\xff")) == b"\x00\xff"
