from __future__ import annotations

from typing import Any

import msgspec
import pytest

from extract.exports import caches
from extract.exports.caches import Cache, parts


def test_each_value_is_computed_once_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "_SIZE", 3)
    monkeypatch.setattr(caches, "_LONGEST", 5)
    asked: list[str] = []
    cache = Cache(lambda key: asked.append(key) or key.upper())
    assert [cache[key] for key in "aabcadea"] == list("AABCADEA")
    assert asked == list("abcdea")
    assert (cache["too long"], cache["too long"], asked[-2:]) == ("TOO LONG", "TOO LONG", ["too long"] * 2)
    assert len(cache) <= 3


def test_long_keys_together_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "_ROOM", 10)
    cache = Cache(lambda key: key)
    for key in ("aaaa", "bbbb", None, "cc", "aaaa"):
        assert cache[key] == key
    assert list(cache) == ["aaaa", "bbbb", None, "cc"]
    assert (cache["d"], list(cache)) == ("d", ["d"])
    assert [cache[key] for key in ("123456789", "e")] == ["123456789", "e"]
    assert list(cache) == ["e"]


class Part(msgspec.Struct):
    name: list[str]


class Record(msgspec.Struct):
    part: Part


@pytest.mark.parametrize("part", [b"7", b'{"name": 7}', b'{"name": ["a", 7]}', b'{"name"', b"{}"])
def test_a_part_fails_as_its_whole_record_would(part: bytes) -> None:
    with pytest.raises(msgspec.DecodeError) as of_part:
        parts("part", Part, lambda read: read.name)[part]
    with pytest.raises(msgspec.DecodeError) as of_record:
        msgspec.json.decode(b'{"part": %b}' % part, type=Record)
    assert type(of_part.value) is type(of_record.value)
    if isinstance(of_part.value, msgspec.ValidationError):
        assert str(of_part.value) == str(of_record.value)


def test_what_a_part_says_is_read_once() -> None:
    read: list[Any] = []
    cache = parts("part", dict[str, int], lambda part: read.append(part) or part["a"])
    assert [cache[b'{"a": 1}'] for _ in range(3)] == [1] * 3
    assert read == [{"a": 1}]
