"""Finding and opening export files: folders, patterns, S3 and GCS; plain or gzip, as bounded bytes."""

from __future__ import annotations

import glob
import gzip
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path, PurePath
from typing import IO, Any

import pyarrow as pa

from extract.exports.google import GoogleStorage, reason
from extract.rows import MAX_LINE
from music_pulse.errors import ConfigurationError, InputError
from music_pulse.settings import Settings

MAX_RATIO = 200
"""How many times its packed size a file may unpack to: real histories reach 40, deflate itself 1,032."""

_ALWAYS_FINE = 64 * 1024 * 1024
_CHUNK = 1 << 20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class FoundFile:
    """A file to import. `is_named`: it was asked for itself, not found in a folder or by a pattern."""

    location: str
    is_named: bool
    filesystem: Any = None
    """The file system of a remote file: fsspec's, or one that does as much."""

    @contextmanager
    def local(self) -> Iterator[Path]:
        """Yield the file on this machine; a remote one is copied, one at a time, and the copy removed."""
        if self.filesystem is None:
            yield Path(self.location)
            return
        with tempfile.TemporaryDirectory(prefix="pulse-import-") as folder:
            path = Path(folder) / Path(self.location).name
            with reading(self.location), self.filesystem.open(self.location, "rb") as remote, path.open("wb") as copy:
                shutil.copyfileobj(remote, copy, _CHUNK)
            yield path


def find_files(settings: Settings, locations: Sequence[str]) -> list[FoundFile]:
    """Return the files of paths, folders, patterns and `s3://` or `gs://` addresses, each once, in order.

    A path that names nothing is returned as it is: opening it says so. Raises `ConfigurationError`.
    """
    found: dict[str, FoundFile] = {}
    for location in locations:
        for file in _find_remote(settings, location) if "://" in location else _find_local(location):
            found.setdefault(file.location, file)
    return list(found.values())


def _find_local(location: str) -> Iterator[FoundFile]:
    if Path(location).is_dir():
        yield from (FoundFile(str(path), is_named=False) for path in _files_in(Path(location)))
    elif glob.has_magic(location) and not Path(location).exists() and (matches := glob.glob(location, recursive=True)):
        for match in map(Path, sorted(matches)):
            if "__MACOSX" not in match.parts:
                files = _files_in(match) if match.is_dir() else [match]
                yield from (FoundFile(str(path), is_named=False) for path in files)
    else:
        yield FoundFile(location, is_named=True)


def _files_in(folder: Path) -> list[Path]:
    """Return the files under a folder, hidden ones and what macOS adds to archives left out."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not is_hidden(path.relative_to(folder)))


def is_hidden(path: PurePath) -> bool:
    """Whether a part of `path` is hidden, or made by macOS."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _find_remote(settings: Settings, location: str) -> Iterator[FoundFile]:
    filesystem = _filesystem(settings, location)
    with reading(location):
        if filesystem.isdir(location):
            paths = sorted(filesystem.find(location))
        elif glob.has_magic(location):
            paths = sorted(filesystem.glob(location))
        else:
            yield FoundFile(location, True, filesystem)
            return
    scheme = location.split("://")[0]
    if not paths:
        yield FoundFile(location, True, filesystem)
    for path in paths:
        if "__MACOSX" not in path.split("/") and not path.rsplit("/", 1)[-1].startswith("."):
            yield FoundFile(f"{scheme}://{path}", False, filesystem)


def _filesystem(settings: Settings, location: str) -> Any:
    scheme = location.split("://")[0]
    if scheme == "s3":
        import fsspec

        secret = settings.s3_secret_access_key
        return fsspec.filesystem(
            "s3",
            key=settings.s3_access_key_id,
            secret=secret.get_secret_value() if secret else None,
            endpoint_url=settings.s3_endpoint_url,
            skip_instance_cache=True,
            use_listings_cache=False,
        )
    if scheme != "gs":
        raise ConfigurationError(f"{location}: files are imported from paths, s3:// and gs://")
    return GoogleStorage(settings)


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file, as `sha256sum` has it: processors hash it in hardware. Raises `InputError`."""
    with reading(path), path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


@contextmanager
def reading(name: str | Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into an `InputError` that names it."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{name}: damaged or incomplete ({error}): nothing of it was landed") from error
    except (OSError, pa.ArrowException) as error:
        text = " ".join((getattr(error, "strerror", None) or str(error)).split())
        raise InputError(f"{name}: can't be read: {reason(text)}") from None


@contextmanager
def named(name: str) -> Iterator[None]:
    """Put the name of the file before an `InputError` about its content."""
    try:
        with reading(name):
            yield
    except InputError as error:
        raise error if name in str(error) else InputError(f"{name}: {error}") from None


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Raise `InputError` if the file changes meanwhile: somebody is still writing it."""
    with reading(path):
        before = path.stat()
    yield
    with reading(path):
        after = path.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise InputError(f"{path}: is still being written: import it once it is whole")


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a plain or gzip file, told apart by content."""
    with reading(path), path.open("rb") as raw:
        head = raw.read(2)
        raw.seek(0)
        if head == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=raw) as file:
                yield Unpacked(file, path.stat().st_size, str(path))  # type: ignore[misc]
        else:
            yield raw


class Unpacked:
    """A packed file that is read unpacked, and refused where it unpacks to absurdly much."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile, packed_size: int, name: str) -> None:
        self._file = file
        self._name = name
        self._left = max(_ALWAYS_FINE, packed_size * MAX_RATIO)

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes. Raises `InputError`."""
        return self._counted(self._file.read(size))

    def readline(self, size: int = -1) -> bytes:
        """Read up to a line of up to `size` bytes. Raises `InputError`."""
        return self._counted(self._file.readline(size))

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise InputError(f"{self._name}: unpacks to over {MAX_RATIO} times its size: no listening history does")
        return data


def lines(file: IO[bytes]) -> Iterator[list[bytes]]:
    """Yield lines, many at a time, in bounded memory; without white space around them, blank ones as empty.

    One that is longer than `MAX_LINE` is cut, and so longer than `MAX_LINE` still.
    """
    data = without_bom(file.read(_CHUNK))
    while more := file.read(_CHUNK):
        end = data.rfind(b"\n") + 1
        if end:
            yield _split(data[: end - 1])
            data = data[end:]
        elif len(data) > MAX_LINE:
            data = data[: MAX_LINE + 1]
        data += more
    yield _split(data)


def _split(data: bytes) -> list[bytes]:
    found = [line.strip() for line in data.split(b"\n")]
    return found if len(data) <= MAX_LINE else [line[: MAX_LINE + 1] for line in found]


def without_bom(data: bytes) -> bytes:
    """Return the first bytes of a file without a UTF-8 byte order mark."""
    return data.removeprefix(_BOM)
