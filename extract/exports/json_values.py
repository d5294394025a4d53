"""JSON arrays of any size -> their elements, a chunk at a time.

A chunk is cut between two elements and decoded whole, at the speed of orjson. Where it can be cut, the first key of
the elements tells: an array in brackets decodes only if it is cut at its own level, so a wrong guess can't pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

import orjson

from extract.exports.files import without_bom
from music_pulse.errors import InputError
from music_pulse.listens import from_json

CHUNK = 1 << 20
MAX_VALUE = 16 * CHUNK
"""Bytes of one element (a Last.fm page of a thousand tracks has two million); more can't be cut."""

Path = Sequence[str]
"""The keys that lead to an array; none where the document is one."""

_FIRST_KEY = re.compile(rb'\s*\{\s*("(?:[^"\\]|\\.)*")')
_ANY_BOUNDARY = re.compile(rb"\}(?=\s*,\s*\{)")
_CANDIDATES = 50
_WINDOW = 1 << 16


class Malformed(NamedTuple):
    """Stands for an element that is no JSON."""

    payload: bytes


class Values(NamedTuple):
    """Some elements, and the number (from 1) of the first of them."""

    first: int
    values: Sequence[Any]


def array_start(data: bytes, path: Path = ()) -> int | None:
    """Return where the elements of the array at `path` begin: the place after its bracket; None without one."""
    if not path:
        found = re.match(rb"\s*\[", data)
        return found.end() if found else None
    for candidate in re.finditer(rb'"%s"\s*:\s*\[' % re.escape(path[-1].encode()), data):
        try:
            document = orjson.loads(data[: candidate.end()] + b"]" + b"}" * len(path))
        except orjson.JSONDecodeError:
            continue
        if _at(document, path) == []:
            return candidate.end()
    return None


def array_values(file: IO[bytes], paths: Sequence[Path] = ((),)) -> Iterator[Values]:
    """Yield the elements of the array at the first of `paths` that a JSON document has, in bounded memory.

    An element that is no JSON comes as `Malformed`. Raises `InputError` where the document has no such array, ends in
    the middle or isn't UTF-8.
    """
    data = without_bom(file.read(CHUNK))
    path, start = next(((path, start) for path in paths if (start := array_start(data, path)) is not None), ((), None))
    if start is None:
        raise InputError("its list of records isn't at its beginning")
    prefix, data = data[:start], data[start:]
    first_key = _FIRST_KEY.match(data)
    boundary = re.compile(rb"\}(?=\s*,\s*\{\s*%s)" % re.escape(first_key[1])) if first_key else _ANY_BOUNDARY
    number = 1
    while more := file.read(CHUNK):
        data += more
        cut = _last_boundary(data, boundary)
        if cut is None:
            if len(data) > MAX_VALUE:
                raise InputError(f"record {number} is longer than {MAX_VALUE // CHUNK} MB")
            continue
        values = _elements(data[:cut], boundary, number)
        yield Values(number, values)
        number += len(values)
        data = data[cut:].lstrip().removeprefix(b",")
    yield Values(number, _last_elements(prefix, data, path, boundary, number))


def _last_boundary(data: bytes, boundary: re.Pattern[bytes]) -> int | None:
    """Return the end of the last element that another one follows."""
    for start in (max(len(data) - _WINDOW, 0), 0):
        found = [match.end() for match in boundary.finditer(data, start)]
        if found:
            return found[-1]
    # Elements whose first keys differ: try, from the right, what could be an end.
    candidates = [match.end() for match in _ANY_BOUNDARY.finditer(data)][-_CANDIDATES:]
    return next((end for end in reversed(candidates) if _is_json(b"[" + data[:end] + b"]")), None)


def _is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


def _elements(data: bytes, boundary: re.Pattern[bytes], number: int) -> list[Any]:
    try:
        values: list[Any] = orjson.loads(b"[" + data + b"]")
    except orjson.JSONDecodeError:
        return [_element(part, number + index) for index, part in enumerate(_parts(data, boundary))]
    return values


def _parts(data: bytes, boundary: re.Pattern[bytes]) -> list[bytes]:
    ends = [match.end() for match in boundary.finditer(data)] + [len(data)]
    starts = [0, *ends]
    return [data[start:end].strip().removeprefix(b",") for start, end in zip(starts, ends, strict=False)]


def _element(data: bytes, number: int) -> Any:
    try:
        return from_json(data)
    except UnicodeDecodeError:
        raise InputError(f"record {number} isn't UTF-8: save the file in that encoding") from None
    except ValueError:
        return Malformed(data)


def _last_elements(prefix: bytes, data: bytes, path: Path, boundary: re.Pattern[bytes], number: int) -> list[Any]:
    """Decode what is left together with the document's end."""
    try:
        values: list[Any] = _at(from_json(prefix + data), path)
        return values
    except ValueError:
        *parts, last = _parts(data, boundary)
    elements = [_element(part, number + index) for index, part in enumerate(parts)]
    number += len(elements)
    closing = re.compile(rb"\]\s*" + rb"\}\s*" * len(path) + rb"\Z")
    try:
        return elements + list(_at(from_json(prefix + last), path))
    except UnicodeDecodeError:
        raise InputError(f"record {number} isn't UTF-8: save the file in that encoding") from None
    except ValueError:
        end = closing.search(last)
        if end is None:
            raise InputError(f"ends in the middle, in record {number}: damaged, or still being written") from None
    return [*elements, Malformed(last[: end.start()].strip())]


def _at(document: Any, path: Path) -> Any:
    for key in path:
        document = document.get(key) if isinstance(document, dict) else None
    return document
