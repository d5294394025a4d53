"""CSV of any size -> its rows, some at a time."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import islice
from typing import IO

from extract.exports.files import MAX_LINE, without_bom
from extract.exports.json_values import Values
from music_pulse.errors import InputError

_ROWS = 5_000


def csv_rows(file: IO[bytes]) -> Iterator[Values]:
    """Yield rows as lists of text, blank ones left out.

    Raises `InputError` for a file that isn't UTF-8 or whose quotes don't close.
    """
    reader = csv.reader(_text_lines(file), strict=True)
    number = 1
    try:
        while rows := list(islice(reader, _ROWS)):
            yield Values(number, [row for row in rows if row])
            number += len(rows)
    except csv.Error as error:
        raise InputError(f"line {reader.line_num} is no CSV ({error})") from None


def _text_lines(file: IO[bytes]) -> Iterator[str]:
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if len(line) >= MAX_LINE:
            raise InputError(f"line {number} is longer than {MAX_LINE >> 20} MB")
        try:
            yield (without_bom(line) if number == 1 else line).decode()
        except UnicodeDecodeError:
            raise InputError(f"line {number} isn't UTF-8: save the file in that encoding") from None
