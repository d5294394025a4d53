from __future__ import annotations

import csv
from io import BytesIO, StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.exports import csv_rows as module
from extract.exports.csv_rows import csv_rows
from music_pulse.errors import InputError


def read(data: bytes, chunk: int = 16) -> list[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        return [row for rows in csv_rows(BytesIO(data)) for row in rows]


def test_a_byte_order_mark_and_any_line_ends_are_fine() -> None:
    data = '\ufeffa,"b ""quoted""",c\r\n\r\nd,"two\nlines",f\n1,2,3'.encode()
    assert read(data) == [["a", 'b "quoted"', "c"], ["d", "two\nlines", "f"], ["1", "2", "3"]]


def test_only_a_line_feed_ends_a_line() -> None:
    assert read("a\u2028b\x85c\x0bd,e\n".encode()) == [["a\u2028b\x85c\x0bd", "e"]]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"a,b\ncaf\xe9,d\n", r"isn't UTF-8, as b'.*caf\\xe9' shows"),
        (b'a,"b\n' + b"c,d\n" * 50_000, "is no CSV"),
        (b'a,"b"c\n', "line 1 is no CSV"),
    ],
)
def test_what_is_no_csv_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read(data, chunk=1 << 20)


def test_a_line_without_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE", 1_000)
    with pytest.raises(InputError, match="a line is longer than"):
        read(b"x" * 5_000)


@given(
    st.lists(st.lists(st.text(st.characters(codec="utf-8"), max_size=6), min_size=2, max_size=3)), st.integers(4, 60)
)
def test_any_rows_come_back(rows: list[list[str]], chunk: int) -> None:
    text = StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows(rows)
    assert read(text.getvalue().encode(), chunk) == rows
