"""Export files -> raw.listens, raw.quarantine and raw.imported_files; one module a format, one load package a file.

A file is known by the hash of its content, its format and its user: importing it again lands nothing. Stopped and
started again, an import goes on with the files that are not landed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import dlt
import pyarrow as pa

from extract.exports.files import FoundFile, find_files, named, unchanged
from extract.exports.format import Format
from extract.exports.formats import FORMATS, format_called
from extract.exports.report import ImportedFile, count_repeats
from extract.exports.units import RefusedUnit, Unit, units_of
from extract.pipeline import RAW_CONTRACT, Landed, Landing, dlt_items, landing
from extract.rows import Rows, timestamps, user_named
from extract.skips import least_played_ms
from music_pulse.blocklist import Blocklist
from music_pulse.errors import InputError
from music_pulse.settings import Settings

logger = logging.getLogger(__name__)

PIPELINE = "exports"

IMPORTED_SCHEMA = pa.schema(
    [
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("user_name", pa.string()),
        pa.field("records", pa.int64(), nullable=False),
        pa.field("landed", pa.int64(), nullable=False),
        pa.field("refused", pa.int64(), nullable=False),
        pa.field("no_music", pa.int64(), nullable=False),
        pa.field("imported_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""`raw.imported_files` as it is landed."""

Progress = Callable[[str, int], None]
"""Called with (file, records read so far)."""


@dataclass
class Import:
    """What an import did, file by file."""

    files: list[ImportedFile] = field(default_factory=list)

    @property
    def landed(self) -> Landed:
        """All files together, in rows of raw."""
        return Landed(sum(file.landed for file in self.files), sum(file.refused for file in self.files))

    @property
    def errors(self) -> list[str]:
        """Why files were refused whole."""
        return [file.error for file in self.files if file.error]


def import_files(
    settings: Settings,
    locations: Sequence[str | Path],
    *,
    user_name: str | None = None,
    format: str | None = None,
    progress: Progress = lambda *_: None,
) -> Import:
    """Land files, folders, zips, patterns, `s3://` and `gs://` addresses.

    `user_name` is whose listens they are where the records name nobody; `format` is a name in `FORMATS`, by default
    that of each file is detected. A file that isn't what it should be is refused whole and reported, and the others go
    on. Raises `InputError` and `ConfigurationError` for wrong arguments.
    """
    if user_name is not None and not user_name.strip():
        raise InputError("--user is blank: say whose listens they are")
    form = format_called(format) if format else None
    done = Import()
    with landing(settings, PIPELINE) as target:
        target.blocklist.refuse([user_name])
        importer = _Importer(target, user_name, form, progress, least_played_ms(settings))
        for file in find_files(settings, [str(location) for location in locations]):
            done.files += importer.import_file(file)
        count_repeats(target.connection, done.files, settings)
    return done


@dataclass
class _Importer:
    target: Landing
    user_name: str | None
    format: Format | None
    progress: Progress
    least_played_ms: float

    def import_file(self, file: FoundFile) -> list[ImportedFile]:
        """Land what a file holds, and say what became of it."""
        try:
            with file.local() as path, unchanged(path):
                return [self._import_unit(unit, path) for unit in units_of(file, path, self.format)]
        except InputError as error:
            return [_refused(file.location, error)]

    def _import_unit(self, unit: Unit | RefusedUnit, path: Path) -> ImportedFile:
        if isinstance(unit, RefusedUnit):
            return _refused(unit.name, unit.error)
        done = ImportedFile(unit.name, unit.format.name)
        user_name = self.user_name or unit.user_name
        if self._load_id(unit, user_name):
            logger.info("%s was imported before: nothing to do", unit.name)
            done.was_imported = True
            return done
        try:
            self.target.blocklist.refuse([user_name])
            _check_user(unit, user_name)
            self.target.run(exports(unit, user_name, done, path, self))
        except InputError as error:
            return _refused(unit.name, error)
        done.load_id = self._load_id(unit, user_name)
        return done

    def _load_id(self, unit: Unit, user_name: str | None) -> str | None:
        row = self.target.connection.execute(
            """
            select load_id
            from raw.imported_files
            inner join raw._dlt_loads on load_id = _dlt_load_id and status = 0
            where content_hash = %s and format = %s and user_name is not distinct from %s
            """,
            [unit.content_hash, unit.format.name, user_name],
        ).fetchone()
        return row[0] if row else None


def _check_user(unit: Unit, user_name: str | None) -> None:
    if user_name or (unit.format.names_users and unit.parts[0].head().line.get("user_name")):
        return
    raise InputError(f"{unit.name}: its records don't name their user: say whose they are with --user NAME")


def _refused(name: str, error: InputError) -> ImportedFile:
    text = str(error) if PurePath(name).name in str(error) else f"{name}: {error}"
    logger.debug("%s", text)
    return ImportedFile(name, error=text)


@dlt.source(name=PIPELINE)
def exports(unit: Unit, user_name: str | None, done: ImportedFile, path: Path, importer: _Importer) -> Any:
    """The plays of one unit, as a resource called like its format, and the note that it was imported."""

    @dlt.resource(name=unit.format.name, write_disposition="append", schema_contract=RAW_CONTRACT)
    def plays() -> Iterator[Any]:
        builder = unit.format.builder(unit.format.source, origin=unit.content_hash[:32], user_name=user_name)

        def taken() -> Iterator[Any]:
            rows = _allowed(builder.take(), importer.target.blocklist)
            done.note(rows.listens, importer.least_played_ms)
            yield from dlt_items(rows)
            importer.progress(unit.name, builder.seen)

        with unchanged(path):
            for part in unit.parts:
                with part.open() as file, named(part.name):
                    for _ in unit.format.read(file, part.name, builder):
                        if builder.is_full:
                            yield from taken()
        yield from taken()
        if not builder.seen:
            raise InputError(f"{unit.name}: holds no listens")
        done.records, done.landed = builder.seen, builder.landed
        done.refused, done.no_music = builder.refused, builder.passed_over
        done.repeats = builder.repeats
        yield dlt.mark.with_table_name(_note(unit, user_name, done), "imported_files")

    return plays


def _allowed(rows: Rows, blocklist: Blocklist) -> Rows:
    """Return `rows`; raise `InputError` if one is of somebody who is kept out, also if it goes to quarantine."""
    if blocklist:
        blocklist.refuse(rows.listens["user_name"].unique().to_pylist())
        blocklist.refuse(map(user_named, rows.quarantine["payload"].to_pylist()))
    return rows


def _note(unit: Unit, user_name: str | None, done: ImportedFile) -> pa.Table:
    values = {
        "content_hash": unit.content_hash,
        "name": unit.name,
        "format": unit.format.name,
        "user_name": user_name,
        "records": done.records,
        "landed": done.landed,
        "refused": done.refused,
        "no_music": done.no_music,
    }
    columns: dict[str, Any] = {name: [value] for name, value in values.items()}
    columns["imported_at"] = timestamps([int(time.time())])
    return pa.table([columns[name] for name in IMPORTED_SCHEMA.names], schema=IMPORTED_SCHEMA)


__all__ = ["FORMATS", "Import", "ImportedFile", "import_files"]
