"""Export files -> raw.listens and raw.quarantine; one module a format, one load package a file.

A file is known by the hash of its content: importing it again lands nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dlt

from extract.exports.files import content_hash
from extract.exports.listenbrainz import SOURCE, check_form, records
from extract.pipeline import RAW_CONTRACT, Landed, Landing, dlt_items, landing
from extract.rows import BATCH_ROWS, RowBuilder
from music_pulse.errors import InputError
from music_pulse.settings import Settings

logger = logging.getLogger(__name__)

PIPELINE = "exports"

Progress = Callable[[Path, int], None]
"""Called with (file, records read so far)."""


@dlt.source(name=PIPELINE)
def exports(path: Path, digest: str, user_name: str | None, progress: Progress) -> Any:
    """Listens of one file; its hash is saved in the state with the same load."""

    @dlt.resource(write_disposition="append", schema_contract=RAW_CONTRACT)
    def listens() -> Iterator[Any]:
        yield from _rows(path, digest, user_name, progress)
        dlt.current.source_state().setdefault("files", {})[_imported_as(digest, user_name)] = path.name

    return listens


def import_files(
    settings: Settings,
    paths: Sequence[Path],
    *,
    user_name: str | None = None,
    progress: Progress = lambda *_: None,
) -> Landed:
    """Land files in ListenBrainz's form: `.jsonl`, `.jsonl.gz` and export zips.

    `user_name` is whose listens they are where the lines name nobody. All files are looked at before the first is
    landed. Raises `InputError`.
    """
    if user_name is not None and not user_name.strip():
        raise InputError("--user is blank: say whose listens they are")
    for path in paths:
        check_form(path, user_name)
    landed = Landed()
    with landing(settings, PIPELINE) as target:
        for path in paths:
            landed += _import_file(target, path, user_name, progress)
    return landed


def _import_file(target: Landing, path: Path, user_name: str | None, progress: Progress) -> Landed:
    digest = content_hash(path)
    if _imported_as(digest, user_name) in target.state(PIPELINE).get("files", {}):
        logger.info("%s was imported before: nothing to do", path)
        return Landed()
    return target.run(exports(path, digest, user_name, progress))


def _imported_as(digest: str, user_name: str | None) -> str:
    """Return the key of a file in the state: imported for the wrong user, it can be imported for the right one."""
    return f"{digest} {user_name}" if user_name else digest


def _rows(path: Path, digest: str, user_name: str | None, progress: Progress) -> Iterator[Any]:
    builder = RowBuilder(SOURCE, origin=digest[:32], user_name=user_name)
    count = 0
    for count, (line, name, number, is_cut) in enumerate(records(path), start=1):
        builder.add_line(line, (name, number), is_cut=is_cut)
        if not count % BATCH_ROWS:
            progress(path, count)
            yield from dlt_items(builder.take())
    progress(path, count)
    yield from dlt_items(builder.take())
