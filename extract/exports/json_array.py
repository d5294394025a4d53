"""JSON arrays of any size -> the bytes of their elements, a chunk at a time.

A chunk is cut between two elements and taken apart whole, in C. Where it can be cut, the first key of the elements
tells: brackets around a chunk make an array only if it is cut at its own level, so a wrong guess can't pass. Only a
chunk in which something is no JSON is cut by counting brackets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import IO, Any, NamedTuple

import msgspec

from extract.exports.files import without_bom
from music_pulse.errors import InputError

CHUNK = 1 << 20
MAX_ELEMENT = 16 * CHUNK
"""Bytes (a Last.fm page of a thousand tracks has up to two million)."""

Path = Sequence[str]
"""The keys that lead to an array; none where the document is one."""

Element = Any
"""Bytes of one element, which may be no JSON (`msgspec.Raw` or `bytes`); or what a `DecodeArray` made of it."""

DecodeArray = Callable[[bytes | msgspec.Raw], list[Any]]
"""Reads the elements of a JSON array. Raises `msgspec.ValidationError` where their bytes should be yielded instead."""

_FIRST_KEY = re.compile(rb'\s*\{\s*("(?:[^"\\]|\\.)*")')
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_ANY_BOUNDARY = re.compile(rb"\}(?=\s*,\s*\{)")
_BETWEEN = re.compile(rb"\}\s*,\s*\{\s*\Z")
_COMMA = re.compile(rb"\s*,?\s*")
_STARTS = 3
_NESTED = 8
_CANDIDATES = 50
_PATIENCE = 4
"""Chunks without a boundary, after which elements whose first keys differ are tried for: that takes long."""
_SPACES = 256
"""Bytes between two elements in which a boundary is found fast."""
_PIECES = 100
"""Pieces of one element, cut where another might begin, that are put together again before it counts as broken."""

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
decode_array: DecodeArray = msgspec.json.Decoder(list[msgspec.Raw]).decode
"""Reads the elements as `msgspec.Raw`."""


def array_start(data: bytes, path: Path = ()) -> int | None:
    """Return where the elements of the array at `path` begin: the place after its bracket; None without one."""
    if not path:
        found = re.match(rb"\s*\[", data)
        return found.end() if found else None
    for candidate in islice(re.finditer(rb'"%s"\s*:\s*\[' % re.escape(path[-1].encode()), data), _STARTS):
        if _array_at(data[: candidate.end()] + b"]" + b"}" * len(path), path) == []:
            return candidate.end()
    return None


def array_elements(
    file: IO[bytes], paths: Sequence[Path] = ((),), decode: DecodeArray = decode_array
) -> Iterator[list[Element]]:
    """Yield the elements of the array at the first of `paths` that a JSON document has, in bounded memory.

    Raises `InputError` where the document has no such array, or ends in the middle.
    """
    data = without_bom(file.read(CHUNK))
    path, start = next(((path, start) for path in paths if (start := array_start(data, path)) is not None), ((), None))
    if start is None:
        raise InputError("its list of records isn't at its beginning")
    prefix, data = data[:start], data[start:]
    found = _FIRST_KEY.match(data)
    first_key = found[1] if found else b""
    boundary = re.compile(rb"\}(?=\s*,\s*\{\s*%s)" % re.escape(first_key))
    count = 0
    while more := file.read(CHUNK):
        data += more
        elements, end = _elements_before(data, first_key, boundary, decode)
        if not elements:
            if len(data) > MAX_ELEMENT:
                raise InputError(f"record {count + 1} is longer than {MAX_ELEMENT >> 20} MB")
            continue
        yield elements
        count += len(elements)
        data = _without_comma(data, end)
    yield _last_elements(prefix, data, path, boundary, count)


def _array_at(
    document: bytes | msgspec.Raw, path: Path = (), decode: DecodeArray = decode_array
) -> list[Element] | None:
    """Return the elements of the array at `path`; None where there is none, or this is no JSON."""
    try:
        for key in path:
            document = _decode_object(document)[key]
        with suppress(msgspec.ValidationError, UnicodeDecodeError):
            return decode(document)
        return decode_array(document)
    except (msgspec.DecodeError, KeyError):
        return None


def _elements_before(
    data: bytes, first_key: bytes, boundary: re.Pattern[bytes], decode: DecodeArray
) -> tuple[list[Element], int]:
    """Return the elements of a chunk that others follow, and where the last of them ends."""
    ends = _last_ends(data, first_key)
    if not ends:
        if len(data) < _PATIENCE * CHUNK:
            return [], 0
        # Elements whose first keys differ have ends that only trying finds.
        ends = [match.end() for match in _ANY_BOUNDARY.finditer(data)][: -_CANDIDATES - 1 : -1]
    for end in ends:
        if (elements := _array_at(b"".join((b"[", memoryview(data)[:end], b"]")), decode=decode)) is not None:
            return elements, end
    parts, end = [], 0
    for part in _parts(data, [match.end() for match in boundary.finditer(data)]):
        if part.is_open:
            break
        parts.append(part.data)
        end = part.end
    return parts, end


def _last_ends(data: bytes, first_key: bytes) -> list[int]:
    """Return where the last elements end that another follows with this first key, the last of them first."""
    ends: list[int] = []
    if not first_key:
        return ends
    at = len(data)
    while len(ends) < _NESTED and (at := data.rfind(first_key, 0, at)) >= 0:
        if match := _BETWEEN.search(data, max(at - _SPACES, 0), at):
            ends.append(match.start() + 1)
    return ends


class _Part(NamedTuple):
    data: bytes
    end: int
    is_open: bool
    """No end was found that closes all of its brackets."""


def _parts(data: bytes, ends: Sequence[int]) -> Iterator[_Part]:
    """Cut where all brackets are closed, at one of `ends` (ascending); where none does, at the next of them.

    An element that holds objects like itself has ends within. One that lacks a bracket must not swallow the others.
    """
    start = first = 0
    while first < len(ends):
        near = ends[first : first + _PIECES]
        closed = next((number for number, end in enumerate(near) if _is_closed(data[start:end])), None)
        number = first + (closed or 0)
        part, start, first = data[start : ends[number]], ends[number], number + 1
        yield _Part(_without_comma(part), start, closed is None and len(near) < _PIECES)


def _last_elements(prefix: bytes, data: bytes, path: Path, boundary: re.Pattern[bytes], count: int) -> list[Element]:
    """Take apart what is left, together with the document's end."""
    elements = _array_at(prefix + data, path)
    if elements is not None:
        return elements
    parts: list[Element] = []
    rest = data
    for part in _parts(data, [match.end() for match in boundary.finditer(data)]):
        if part.is_open and (elements := _end_of_document(prefix, rest, path)) is not None:
            return [*parts, *elements]
        parts.append(part.data)
        rest = _without_comma(data, part.end)
    elements = _end_of_document(prefix, rest, path)
    if elements is None:
        raise InputError(f"ends in the middle, in record {count + len(parts) + 1}: damaged, or still being written")
    return [*parts, *elements]


def _end_of_document(prefix: bytes, data: bytes, path: Path) -> list[Element] | None:
    """Return the last elements; None where the document is cut off.

    An element that is no JSON is told from a file cut off by the brackets that close it and the document.
    """
    elements = _array_at(prefix + data, path)
    if elements is not None:
        return elements
    end = re.search(rb"\]\s*" + rb"\}\s*" * len(path) + rb"\Z", data)
    return [data[: end.start()].strip()] if end and _is_closed(data[: end.start()]) else None


def _without_comma(data: bytes, start: int = 0) -> bytes:
    """Return what is from `start` on, without the comma and the white space that it begins with."""
    comma = _COMMA.match(data, start)
    return data[comma.end() if comma else start :]


def _is_closed(element: bytes) -> bool:
    bare = _STRING.sub(b"", element)
    return bare.count(b"{") == bare.count(b"}") and bare.count(b"[") == bare.count(b"]") and b'"' not in bare
