"""A Parquet file a day, written from Postgres: `<folder>/day=2026-11-21/<name>`. Days are those of UTC.

Written from what is committed, whole and aside, then renamed; so a crash leaves the old file or the new one, and
nothing twice. Each file carries a fingerprint that tells what it was written from: what is to be written is found by
comparing, whoever was killed when.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from music_pulse.errors import DatabaseError, PulseError
from music_pulse.settings import Credentials

DAY_SECONDS = 86_400

WITHIN_DAY = "({column} >= to_timestamp({day} * 86400.0) and {column} < to_timestamp(({day} + 1) * 86400.0))"
"""SQL: whether `column`, a time, lies on `day` (since 1970); a range, so that an index serves."""

_ROW_GROUP_ROWS = 50_000
_BATCH_BYTES = 4 * 1024 * 1024
_FINGERPRINT = "music_pulse.fingerprint"


class DayFiles:
    """The files called `name` under `folder`; any number of processes may write them."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self._name = name

    def path(self, day: int) -> Path:
        """Return the file of a day (since 1970)."""
        date = datetime.fromtimestamp(day * DAY_SECONDS, UTC).date()
        return self.folder / f"day={date.isoformat()}" / self._name

    @contextmanager
    def updating(self, login: Credentials) -> Iterator[Any]:
        """Yield a cursor on one state of the database, while nobody else writes files.

        Raises `DatabaseError`, or `PulseError` for a folder that can't be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Reading and renaming under one lock: else an older state could be the last to be renamed.
            with FileLock(self.folder / ".lock"), _snapshot(login) as cursor:
                yield cursor
        except OSError as error:
            raise PulseError(
                f"can't write the archive {self.folder}: {error.strerror}; set PULSE_ARCHIVE_DIR"
            ) from error

    def fingerprint(self, day: int) -> str | None:
        """Return the fingerprint that the file of a day was written with; None if there is no (whole) file."""
        try:
            metadata = pq.read_metadata(self.path(day)).metadata or {}
        except (FileNotFoundError, pa.ArrowInvalid):
            return None
        return str(metadata.get(_FINGERPRINT.encode(), b"").decode())

    def write(self, cursor: Any, query: str, day: int, fingerprint: str) -> None:
        """Write what `query` yields as the file of a day; holds a few megabytes of it at a time."""
        path = self.path(day)
        path.parent.mkdir(exist_ok=True)
        aside = path.with_name(f".{path.name}.new")  # readers of Parquet folders pass over names with a dot
        cursor.execute(query)
        reader = cursor.fetch_record_batch()
        with aside.open("wb") as file:
            with pq.ParquetWriter(file, reader.schema, compression="zstd") as writer:
                for table in _row_groups(reader):
                    writer.write_table(table)
                writer.add_key_value_metadata({_FINGERPRINT: fingerprint})
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)


def _row_groups(reader: Any) -> Iterator[pa.Table]:
    """Gather record batches to row groups of about `_ROW_GROUP_ROWS`."""
    gathered: list[pa.RecordBatch] = []
    rows = 0
    for batch in reader:
        gathered.append(batch)
        rows += batch.num_rows
        if rows >= _ROW_GROUP_ROWS:
            yield pa.Table.from_batches(gathered)
            gathered, rows = [], 0
    if gathered:
        yield pa.Table.from_batches(gathered)


@contextmanager
def _snapshot(login: Credentials) -> Iterator[Any]:
    """Yield a cursor that reads one state of the database, and can only read; hands out Arrow."""
    from adbc_driver_manager import Error
    from adbc_driver_postgresql import dbapi

    user, password, dbname = (quote(part, safe="") for part in (login.user, login.password, login.dbname))
    uri = f"postgresql://{user}:{password}@{login.host}:{login.port}/{dbname}?sslmode={login.sslmode}"
    try:
        with dbapi.connect(uri) as connection, connection.cursor() as cursor:
            cursor.execute("set transaction isolation level repeatable read read only")
            cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(_BATCH_BYTES)})
            yield cursor
            connection.rollback()
    except Error as error:
        text = " ".join(str(error).split())[:300]
        raise DatabaseError(f"reading for the archive failed: {text}") from error
