"""The formats that can be imported, and which of them a file has."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import NoReturn

from extract.exports import koito, lastfm_csv, lastfm_json, listenbrainz, maloja, spotify_extended, spotify_short
from extract.exports.format import Format, Head
from music_pulse.errors import InputError

FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        listenbrainz.FORMAT,
        spotify_extended.FORMAT,
        spotify_short.FORMAT,
        lastfm_json.FORMAT,
        lastfm_csv.FORMAT,
        maloja.FORMAT,
        koito.FORMAT,
    )
}
"""By name."""


def format_called(name: str) -> Format:
    """Return the format of this name. Raises `InputError`."""
    if name not in FORMATS:
        raise InputError(f"--format {name}: it is one of {', '.join(FORMATS)}")
    return FORMATS[name]


def detect(head: Head) -> Format | None:
    """Return the format of a file, by its content; None for what is no listening history.

    Raises `InputError` where a file is called like one of a format, but isn't one.
    """
    for form in FORMATS.values():
        if form.recognises(head):
            return form
    for form in FORMATS.values():
        if form.file_names.fullmatch(head.name) or form.file_names.fullmatch(PurePosixPath(head.name).name):
            raise InputError(f"{head.name}: called like a file of {form.name}, but {_what_is_wrong(head)}")
    return None


def refuse(head: Head) -> NoReturn:
    """Raise `InputError` for a file that was asked for and is of no format."""
    raise InputError(f"{head.name}: {_what_is_wrong(head)} (formats: {', '.join(FORMATS)})")


def _what_is_wrong(head: Head) -> str:
    if not head.start.strip():
        return "it is empty: it holds no listens"
    if head.start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "it is in UTF-16: save it in UTF-8"
    if head.start.startswith(b"PK\x03\x04"):
        return "it is a zip that is damaged or cut off"
    if b"\0" in head.start:
        return "it is binary"
    try:
        head.start.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head.start) - 4:
            return "it isn't in UTF-8"
    return "its beginning is no listening history"
