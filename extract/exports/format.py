"""What a format of export files is: how it is recognised, and how its files are read."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any

import msgspec

from extract.exports.csv_rows import csv_rows
from extract.exports.files import without_bom
from extract.exports.json_array import DecodeArray, Element, Path, array_elements, array_start, decode_array
from extract.exports.plays import Decode, PlayBuilder, ToPlay
from extract.exports.records import Records
from extract.rows import RowBuilder

HEAD_BYTES = 4 << 20
"""A Last.fm page of a thousand tracks, the longest first record, has up to two million."""


class Head:
    """The name and the beginning of a file: what a format is recognised by."""

    def __init__(self, name: str, start: bytes) -> None:
        self.name = name
        self.start = without_bom(start)

    @cached_property
    def text(self) -> str:
        """The beginning as text; what can't be decoded is left out."""
        return self.start.decode(errors="ignore")

    def record(self, path: Path = ()) -> dict[str, Any]:
        """Return the first object of the JSON array at `path`; empty where there is none."""
        start = array_start(self.start, path)
        if start is None:
            return {}
        return _first_object(self.start[start:].decode(errors="ignore"))

    @cached_property
    def line(self) -> dict[str, Any]:
        """The JSON object that the file begins with; empty where there is none."""
        return _first_object(self.text)

    @cached_property
    def row(self) -> list[str]:
        """The first CSV row."""
        try:
            return next(csv.reader(self.text[:10_000].lstrip().splitlines()), [])
        except csv.Error:
            return []


def _first_object(text: str) -> dict[str, Any]:
    try:
        value, _ = json.JSONDecoder().raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


Reader = Callable[[IO[bytes], str, Any], Iterator[None]]
"""Adds the records of an open file, of this name, to the format's builder; yields after each batch."""


@dataclass(frozen=True)
class Format:
    """One format of export files."""

    name: str
    """As in `--format` and `raw.imported_files`."""
    source: str
    """As in `raw.listens`."""
    file_names: re.Pattern[str]
    """What its files are called: one of that name and other content is refused."""
    recognises: Callable[[Head], bool]
    read: Reader
    builder: type[RowBuilder] = PlayBuilder
    names_users: bool = False
    """Whether its records may say whose they are."""
    is_one_archive: bool = False
    """Whether all files of a zip belong together."""


def json_reader(
    to_play: ToPlay,
    record: type,
    *paths: Path,
    elements: DecodeArray = decode_array,
    flatten: Callable[[list[Element]], list[Element]] = lambda found: found,
) -> Reader:
    """Return a reader of the JSON array at the first of `paths` that a file has (by default the file is the array).

    `record` is the msgspec type of what `to_play` gets; `elements` reads the array and `flatten` makes records of
    its elements, where one element holds many.
    """
    decode: Decode = msgspec.json.Decoder(record).decode

    def read(file: IO[bytes], name: str, builder: PlayBuilder) -> Iterator[None]:
        first = 1
        for found in map(flatten, array_elements(file, paths or ((),), elements)):
            builder.add_plays(Records(first, found, found), decode, to_play, name)
            first += len(found)
            yield

    return read


def csv_reader(to_play: ToPlay, is_header: Callable[[list[str]], bool]) -> Reader:
    """Return a reader of CSV rows; `to_play` gets lists of text."""

    def read(file: IO[bytes], name: str, builder: PlayBuilder) -> Iterator[None]:
        first = 1
        for rows in csv_rows(file):
            if first == 1 and rows and is_header(rows[0]):
                rows, first = rows[1:], 2
            builder.add_plays(Records(first, rows, [",".join(row).encode() for row in rows]), _as_it_is, to_play, name)
            first += len(rows)
            yield

    return read


def _as_it_is(row: list[str]) -> list[str]:
    return row
