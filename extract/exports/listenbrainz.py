"""ListenBrainz's own forms: JSON lines (plain or gzip), and the zip that its export page gives.

The zip holds `listens/<year>/<month>.jsonl` (listenbrainz-server, background/export.py); lines don't name their
user. `listened_at` is the start of play, in UTC seconds.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from extract.exports.files import is_zip, lines, opened, reading
from music_pulse.errors import InputError
from music_pulse.listens import from_json

SOURCE = "listenbrainz_export"

_MEMBER = re.compile(r"(?:.*/)?listens/[^/]+/[^/]+\.jsonl\Z")


Record = tuple[bytes, str, int, bool]
"""One line: its bytes, of which file, its number from 1, and whether it was longer than a line may be."""


def check_form(path: Path, user_name: str | None) -> None:
    """Raise `InputError` unless `path` starts like a file of listens whose user is known."""
    first = next(records(path), None)
    if first is None:
        raise InputError(f"{path}: holds no listens")
    try:
        listen = from_json(first[0])
    except ValueError:
        listen = None
    if not isinstance(listen, dict) or "track_metadata" not in listen:
        raise InputError(f"{path}: not a file of ListenBrainz listens (its first line is no listen)")
    if user_name is None and not listen.get("user_name"):
        raise InputError(f"{path}: its lines don't name their user: say whose they are with --user NAME")


def records(path: Path) -> Iterator[Record]:
    """Yield the lines of every listens file in `path`. Raises `InputError` for a damaged file."""
    if is_zip(path):
        yield from _zip_records(path)
        return
    with opened(path) as file:
        name = path.name
        for line, number, is_cut in lines(file):
            yield line, name, number, is_cut


def _zip_records(path: Path) -> Iterator[Record]:
    with reading(path), zipfile.ZipFile(path) as archive:
        members = sorted(name for name in archive.namelist() if _MEMBER.match(name))
        if not members:
            raise InputError(f"{path}: no listens/<year>/<month>.jsonl in it, so no ListenBrainz export")
        for name in members:
            with archive.open(name) as file:
                for line, number, is_cut in lines(file):
                    yield line, f"{path.name}/{name}", number, is_cut
