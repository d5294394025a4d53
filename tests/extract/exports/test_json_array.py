from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from io import BytesIO
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.exports import json_array
from extract.exports.json_array import array_elements, array_start
from music_pulse.errors import InputError

RECORDS = [{"id": number, "name": "},{" * number, "in": [{"id": number}, {"x": None}]} for number in range(50)]


def read(data: bytes, *paths: Sequence[str], chunk: int = 64) -> list[bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "CHUNK", chunk)
        return [bytes(element) for part in array_elements(BytesIO(data), paths or ((),)) for element in part]


def decoded(data: bytes, *paths: Sequence[str], chunk: int = 64) -> list[Any]:
    return [json.loads(element) for element in read(data, *paths, chunk=chunk)]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("chunk", [30, 64, 1_000, 1 << 20])
def test_the_elements_of_an_array_come_in_order_wherever_a_chunk_ends(indent: int | None, chunk: int) -> None:
    assert decoded(json.dumps(RECORDS, indent=indent).encode(), chunk=chunk) == RECORDS


@pytest.mark.parametrize(
    ("before", "after", "path"),
    [
        ("\ufeff \r\n[", "]\r\n", ()),
        ('{"maloja": {"list": []}, "scrobbles": [', "]}", ("scrobbles",)),
        ('{"user": "\\"listens\\": [", "listens": [', '], "more": [{"id": 9}]}', ("listens",)),
        ('{"recenttracks": {"track": [', '], "@attr": {"page": "1"}}}\n', ("recenttracks", "track")),
    ],
)
def test_an_array_is_found_at_its_path(before: str, after: str, path: Sequence[str]) -> None:
    data = (before + json.dumps(RECORDS)[1:-1] + after).encode()
    assert decoded(data, path, chunk=128) == RECORDS
    assert decoded(data, ("nowhere",), path) == RECORDS


@pytest.mark.parametrize("data", [b"", b"{}", b'{"listens": 3}', b'{"deep": {"listens": []}}', b'"listens": ['])
def test_a_document_without_the_array_is_refused(data: bytes) -> None:
    assert array_start(data, ("listens",)) is None
    with pytest.raises(InputError, match="isn't at its beginning"):
        read(data, ("listens",))


def test_an_empty_array_has_no_elements() -> None:
    assert read(b"[ ]\n") == []


def test_an_element_that_is_no_json_comes_as_it_stands_beside_the_others() -> None:
    parts = [json.dumps(record).encode() for record in RECORDS]
    parts[7] = b'{"id": 7, "name": nonsense}'
    parts[-1] = b'{"id": 49,, "name": 1}'
    assert read(b"[" + b",\n".join(parts) + b"]", chunk=500) == parts


NESTED = {"id": 1, "in": [{"id": 2}, {"id": 3, "in": [{"id": 4}, {"id": 5}]}, {"id": 6}]}


@pytest.mark.parametrize("chunk", range(20, 140, 7))
def test_an_element_that_holds_elements_like_itself_is_not_cut(chunk: int) -> None:
    assert decoded(json.dumps([NESTED] * 9).encode(), chunk=chunk) == [NESTED] * 9


@pytest.mark.parametrize("chunk", [20, 64, 300, 1 << 20])
@pytest.mark.parametrize("position", [0, 1, 4, 7, 8])
@pytest.mark.parametrize(
    "bad", ['{"id": 1, nonsense}', '{"id": 1, "in": [{"id": 2}, {"id": nonsense}]}', '{"id": 1, "in": [3}']
)
def test_beside_an_element_that_is_no_json_the_others_stay_whole(bad: str, position: int, chunk: int) -> None:
    parts = [json.dumps(NESTED).encode()] * 9
    parts[position] = bad.encode()
    if position == 8 and bad.endswith("[3}"):
        with pytest.raises(InputError, match="ends in the middle, in record 9"):
            read(b"[" + b", ".join(parts) + b"]", chunk=chunk)
    else:
        assert read(b"[" + b", ".join(parts) + b"]", chunk=chunk) == parts


@pytest.mark.parametrize("cut", [1, 2, 40, 400])
@pytest.mark.parametrize("chunk", [64, 1 << 20])
def test_a_document_that_ends_in_the_middle_is_refused(cut: int, chunk: int) -> None:
    with pytest.raises(InputError, match="ends in the middle, in record"):
        read(json.dumps(RECORDS).encode()[:-cut], chunk=chunk)


def test_elements_may_begin_with_different_keys() -> None:
    records = [{"a": 1, "b": [{"c": 2}]}, {"b": [], "a": 2}, {"z": {"y": "}, {"}}] * 30
    assert decoded(json.dumps(records).encode(), chunk=100) == records


@pytest.mark.parametrize("first", [{}, None, 7, []])
def test_what_begins_with_no_key_is_followed_by_the_others(first: Any) -> None:
    records = [first, *RECORDS]
    assert decoded(json.dumps(records).encode(), chunk=100) == records


def test_an_element_without_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_array, "MAX_ELEMENT", 1_000)
    with pytest.raises(InputError, match="record 1 is longer than"):
        read(b'[{"a": "' + b"x" * 5_000)


class Endless:
    """A file of `size` bytes and more, the same records over and over, that never was on a disk."""

    RECORDS = b", ".join(json.dumps(record).encode() for record in RECORDS)

    def __init__(self, size: int) -> None:
        self._left = size

    def read(self, size: int) -> bytes:
        if self._left < 0:
            return b""
        is_first, self._left = self._left == SIZE, self._left - len(self.RECORDS) * 100
        return (b"[" if is_first else b", ") + b", ".join([self.RECORDS] * 100) + (b"]" if self._left < 0 else b"")


SIZE = 64 << 20


def test_memory_does_not_grow_with_the_file() -> None:
    tracemalloc.start()
    try:
        count = sum(len(elements) for elements in array_elements(cast(Any, Endless(SIZE))))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count * len(Endless.RECORDS) / len(RECORDS) > SIZE
    assert peak < 16 << 20


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('id{}[],"\\ é', max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(
        st.builds(lambda rest: {"id": 1, **rest}, st.dictionaries(st.text("id}{,", max_size=2), JSON, max_size=3))
    ),
    st.integers(20, 200),
    st.sampled_from([None, 1]),
)
def test_any_records_come_back(records: list[dict[str, Any]], chunk: int, indent: int | None) -> None:
    data = json.dumps(records, indent=indent, ensure_ascii=False).encode()
    assert decoded(data, chunk=chunk) == records
