"""Opening export files: plain, gzip or zip, as bounded lines of bytes."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO

from music_pulse.errors import InputError

MAX_LINE = 4 * 1024 * 1024
"""Bytes; ListenBrainz takes listens of at most 10 kB, so a longer line is no listen."""

_BOM = b"\xef\xbb\xbf"


def content_hash(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal. Raises `InputError`."""
    digest = sha256()
    with reading(path), path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while `path` is read into an `InputError` that names it."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (IsADirectoryError, PermissionError) as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from None
    except (
        EOFError,
        zlib.error,
        gzip.BadGzipFile,
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise InputError(f"{path}: damaged or incomplete ({error}): nothing of it was landed") from error


def is_zip(path: Path) -> bool:
    """Whether the file is a zip, by its content."""
    with reading(path):
        return zipfile.is_zipfile(path)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a plain or gzip file, told apart by content."""
    with reading(path), path.open("rb") as raw:
        head = raw.read(2)
        raw.seek(0)
        if head == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=raw) as file:
                yield file  # type: ignore[misc]
        else:
            yield raw


def lines(file: IO[bytes]) -> Iterator[tuple[bytes, int, bool]]:
    """Yield the lines that aren't blank, in bounded memory.

    As (line without its end, number from 1, whether it was longer than `MAX_LINE` and is cut).
    """
    number = 0
    while data := file.readline(MAX_LINE + 1):
        number += 1
        is_cut = False
        if len(data) > MAX_LINE and not data.endswith(b"\n"):
            is_cut = True
            while (rest := file.readline(MAX_LINE + 1)) and not rest.endswith(b"\n"):
                pass
        if number == 1 and data.startswith(_BOM):
            data = data[len(_BOM) :]
        data = data.strip()
        if data:
            yield data, number, is_cut
