"""CSV of any size -> its rows, some at a time."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from io import StringIO
from itertools import chain, islice
from typing import IO

from extract.exports.files import without_bom
from extract.rows import MAX_LINE
from music_pulse.errors import InputError

_CHUNK = 1 << 20
_ROWS = 5_000


def csv_rows(file: IO[bytes]) -> Iterator[list[list[str]]]:
    """Yield rows, blank ones left out.

    Raises `InputError` for a file that isn't UTF-8 or whose quotes don't close.
    """
    reader = csv.reader(chain.from_iterable(_chunks(file)), strict=True)
    try:
        while rows := list(islice(reader, _ROWS)):
            yield [row for row in rows if row]
    except csv.Error as error:
        raise InputError(f"line {reader.line_num} is no CSV ({error})") from None


def _chunks(file: IO[bytes]) -> Iterator[StringIO]:
    """Yield whole lines; only a line feed ends one."""
    data = without_bom(file.read(_CHUNK))
    while more := file.read(_CHUNK):
        data += more
        end = data.rfind(b"\n") + 1
        if end:
            yield _text(data[:end])
            data = data[end:]
        elif len(data) > MAX_LINE:
            raise InputError(f"a line is longer than {MAX_LINE >> 20} MB")
    yield _text(data)


def _text(data: bytes) -> StringIO:
    try:
        return StringIO(data.decode(), newline="\n")
    except UnicodeDecodeError as error:
        found = data[max(error.start - 20, 0) : error.end]
        raise InputError(f"isn't UTF-8, as {found!r} shows: save it in that encoding") from None
