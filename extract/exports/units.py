"""What a file holds: itself, or what is to be imported of a zip; each unit is one load package."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import IO

from extract.exports.files import FoundFile, Unpacked, content_hash, is_hidden, opened, reading
from extract.exports.format import HEAD_BYTES, Format, Head
from extract.exports.formats import detect, refuse
from music_pulse.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """One stream of records: a file, or one in a zip."""

    name: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]

    def head(self) -> Head:
        """Return its beginning. Raises `InputError`."""
        with self.open() as file:
            return Head(self.name, file.read(HEAD_BYTES))


@dataclass(frozen=True)
class Unit:
    """What is imported as one: all of it, or nothing."""

    name: str
    content_hash: str
    format: Format
    parts: tuple[Part, ...]
    user_name: str | None = None
    """Whose listens they are, where the archive says so."""


@dataclass(frozen=True)
class RefusedUnit:
    """What looks like a listening history and isn't one."""

    name: str
    error: InputError


def units_of(file: FoundFile, path: Path, format: Format | None) -> list[Unit | RefusedUnit]:
    """Return what is to be imported of a file, which lies at `path`; nothing of one that is no listening history.

    Raises `InputError`, also for a file without listens that was asked for itself.
    """
    name = Path(file.location).name
    with reading(path):
        is_zip = zipfile.is_zipfile(path)
    if is_zip:
        units = _units_of_zip(name, path, format)
        if not units and file.is_named:
            raise InputError(f"{file.location}: nothing in this zip is a listening history")
        return units
    part = Part(name, partial(opened, path))
    head = part.head()
    found = format or detect(head)
    if found is None:
        if file.is_named:
            refuse(head)
        logger.info("%s: passed over, no listening history", file.location)
        return []
    return [Unit(file.location, content_hash(path), found, (part,))]


def _units_of_zip(name: str, path: Path, format: Format | None) -> list[Unit | RefusedUnit]:
    digest = content_hash(path)
    units: dict[str, Unit] = {}
    refused: list[Unit | RefusedUnit] = []
    user_name: str | None = None
    for part in _parts_of_zip(name, path):
        try:
            found = format or detect(part.head())
        except InputError as error:
            refused.append(RefusedUnit(part.name, error))
            continue
        if found is None:
            user_name = user_name or _user_of(part)
            logger.info("%s: passed over, no listening history", part.name)
            continue
        unit_name = name if found.is_one_archive else part.name
        known = units.get(unit_name)
        parts = (*known.parts, part) if known else (part,)
        part_hash = sha256(f"{digest}/{part.name}".encode()).hexdigest()
        units[unit_name] = Unit(unit_name, digest if found.is_one_archive else part_hash, found, parts)
    return [*(replace(unit, user_name=user_name) for unit in units.values()), *refused]


def _user_of(part: Part) -> str | None:
    """Read ListenBrainz's `user.json` (listenbrainz-server, background/export.py)."""
    name = part.head().line.get("username") if PurePosixPath(part.name).name == "user.json" else None
    return name if isinstance(name, str) and name.strip() else None


def _parts_of_zip(name: str, path: Path) -> Iterator[Part]:
    with reading(path), zipfile.ZipFile(path) as archive:
        members = sorted(archive.infolist(), key=lambda member: member.filename)
    for member in members:
        place = PurePosixPath(member.filename.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts or ":" in place.parts[0]:
            raise InputError(f"{name}: {member.filename!r} in it leads out of its folder: nothing of it was landed")
        if member.flag_bits & 1:
            raise InputError(f"{name}: is encrypted: unpack it first")
        if not member.is_dir() and not is_hidden(place):
            yield Part(f"{name}/{member.filename}", partial(_member, path, member))


@contextmanager
def _member(path: Path, member: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
    name = f"{path.name}/{member.filename}"
    with reading(name), zipfile.ZipFile(path) as archive, archive.open(member) as file:
        yield Unpacked(file, member.compress_size, name)  # type: ignore[misc]
