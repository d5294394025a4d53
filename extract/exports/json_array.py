"""JSON arrays of any size -> the bytes of their elements, a chunk at a time.

A chunk is cut between two elements and taken apart whole, in C. Where it can be cut, the first key of the elements
tells: brackets around a chunk make an array only if it is cut at its own level, so a wrong guess can't pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import IO

import msgspec

from extract.exports.files import without_bom
from music_pulse.errors import InputError

CHUNK = 1 << 20
MAX_ELEMENT = 16 * CHUNK
"""Bytes (a Last.fm page of a thousand tracks has up to two million)."""

Path = Sequence[str]
"""The keys that lead to an array; none where the document is one."""

Element = msgspec.Raw | bytes
"""Bytes of one element; they may be no JSON."""

_FIRST_KEY = re.compile(rb'\s*\{\s*("(?:[^"\\]|\\.)*")')
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_ANY_BOUNDARY = re.compile(rb"\}(?=\s*,\s*\{)")
_STARTS = 3
_CANDIDATES = 50
_WINDOW = 1 << 16

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


def array_start(data: bytes, path: Path = ()) -> int | None:
    """Return where the elements of the array at `path` begin: the place after its bracket; None without one."""
    if not path:
        found = re.match(rb"\s*\[", data)
        return found.end() if found else None
    for candidate in islice(re.finditer(rb'"%s"\s*:\s*\[' % re.escape(path[-1].encode()), data), _STARTS):
        if _array_at(data[: candidate.end()] + b"]" + b"}" * len(path), path) == []:
            return candidate.end()
    return None


def array_elements(file: IO[bytes], paths: Sequence[Path] = ((),)) -> Iterator[list[Element]]:
    """Yield the elements of the array at the first of `paths` that a JSON document has, in bounded memory.

    Raises `InputError` where the document has no such array, or ends in the middle.
    """
    data = without_bom(file.read(CHUNK))
    path, start = next(((path, start) for path in paths if (start := array_start(data, path)) is not None), ((), None))
    if start is None:
        raise InputError("its list of records isn't at its beginning")
    prefix, data = data[:start], data[start:]
    first_key = _FIRST_KEY.match(data)
    boundary = re.compile(rb"\}(?=\s*,\s*\{\s*%s)" % re.escape(first_key[1])) if first_key else _ANY_BOUNDARY
    count = 0
    while more := file.read(CHUNK):
        data += more
        cut = _last_boundary(data, boundary)
        if cut is None:
            if len(data) > MAX_ELEMENT:
                raise InputError(f"record {count + 1} is longer than {MAX_ELEMENT >> 20} MB")
            continue
        elements = _array_at(b"[%b]" % data[:cut]) or _parts(data[:cut], boundary)
        yield elements
        count += len(elements)
        data = data[cut:].lstrip().removeprefix(b",")
    yield _last_elements(prefix, data, path, boundary, count)


def _array_at(document: bytes | msgspec.Raw, path: Path = ()) -> list[Element] | None:
    """Return the elements of the array at `path`; None where there is none, or this is no JSON."""
    try:
        for key in path:
            document = _decode_object(document)[key]
        return [*_decode_array(document)]
    except (msgspec.DecodeError, KeyError):
        return None


def _last_boundary(data: bytes, boundary: re.Pattern[bytes]) -> int | None:
    """Return the end of the last element that another one follows."""
    for start in (max(len(data) - _WINDOW, 0), 0):
        found = [match.end() for match in boundary.finditer(data, start)]
        if found:
            return found[-1]
    # Elements whose first keys differ: try, from the right, what could be an end.
    candidates = [match.end() for match in _ANY_BOUNDARY.finditer(data)][-_CANDIDATES:]
    return next((end for end in reversed(candidates) if _array_at(b"[%b]" % data[:end]) is not None), None)


def _parts(data: bytes, boundary: re.Pattern[bytes]) -> list[Element]:
    """Cut a chunk in which something is no JSON at every boundary."""
    ends = [*(match.end() for match in boundary.finditer(data)), len(data)]
    return [data[start:end].strip().removeprefix(b",").lstrip() for start, end in zip([0, *ends], ends, strict=False)]


def _last_elements(prefix: bytes, data: bytes, path: Path, boundary: re.Pattern[bytes], count: int) -> list[Element]:
    """Take apart what is left, together with the document's end."""
    elements = _array_at(prefix + data, path)
    if elements is not None:
        return elements
    *parts, last = _parts(data, boundary)
    elements = _array_at(prefix + bytes(last), path)
    if elements is not None:
        return [*parts, *elements]
    # An element that is no JSON is told from a file cut off by the brackets that close it and the document.
    end = re.search(rb"\]\s*" + rb"\}\s*" * len(path) + rb"\Z", bytes(last))
    if end is None or not _is_closed(bytes(last)[: end.start()]):
        raise InputError(f"ends in the middle, in record {count + len(parts) + 1}: damaged, or still being written")
    return [*parts, bytes(last)[: end.start()].strip()]


def _is_closed(element: bytes) -> bool:
    bare = _STRING.sub(b"", element)
    return bare.count(b"{") == bare.count(b"}") and bare.count(b"[") == bare.count(b"]") and b'"' not in bare
