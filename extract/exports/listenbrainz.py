"""ListenBrainz's own forms: JSON lines (plain or gzip), and the zip that its export page gives.

The zip holds `listens/<year>/<month>.jsonl` (listenbrainz-server, background/export.py); its lines don't name their
user. `listened_at` is the start of play, in seconds since 1970, UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO

from extract.exports.files import lines
from extract.exports.format import Format, Head
from extract.rows import RowBuilder

_FIRST = 20
"""Lines that are looked at."""


def _read(file: IO[bytes], name: str, builder: RowBuilder) -> Iterator[None]:
    first = 1
    for found in lines(file):
        builder.add_lines(found, first, name)
        first += len(found)
        yield


def _recognises(head: Head) -> bool:
    # The first line may be a bad one: it goes to quarantine as any other does. A zip that is cut off is no text.
    first = head.start.split(b"\n", _FIRST)[:_FIRST]
    return b"\0" not in head.start and any("track_metadata" in Head(head.name, line).line for line in first)


FORMAT = Format(
    name="listenbrainz",
    source="listenbrainz_export",
    file_names=re.compile(r"(?:.*/)?listens/[^/]+/[^/]+\.jsonl"),
    recognises=_recognises,
    read=_read,
    builder=RowBuilder,
    names_users=True,
    is_one_archive=True,
)
