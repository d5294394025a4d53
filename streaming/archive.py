"""raw.stream_listens -> Parquet, a file a day: `<folder>/day=2026-11-21/listens.parquet`.

Written from what is committed, whole and aside, then renamed; so a crash leaves the old file or the new one, and
nothing twice. Each file carries the fingerprint of the rows that it holds: what has changed is found by comparing,
whoever was killed when. A day is that of `listened_at` in UTC.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from music_pulse.errors import DatabaseError, PulseError
from music_pulse.settings import Credentials
from streaming.listen_rows import UUIDS, StreamRow

log = logging.getLogger(__name__)

ARCHIVE_SECONDS = 300.0
"""Between two looks at what has changed: a day's file is written whole, however little of it is new."""

_DAY_SECONDS = 86_400
_MANY_DAYS = 50
_ROW_GROUP_ROWS = 50_000
_BATCH_BYTES = 4 * 1024 * 1024
_FINGERPRINT = "music_pulse.fingerprint"
_FORMAT = 1  # raise it when all files are to be written anew

# A row changes only together with its load id.
_STATE = """
select
    cast(cast(extract(epoch from listened_at) as bigint) / 86400 as integer) as day,
    count(*) || ' ' || bit_xor(hashtextextended(listen_id || load_id, 0)) as fingerprint
from raw.stream_listens
where {within}
group by 1
order by 1
"""
_WITHIN = "(listened_at >= to_timestamp({day} * 86400.0) and listened_at < to_timestamp(({day} + 1) * 86400.0))"
_COLUMNS = [f"cast({name} as text) as {name}" if name in UUIDS else name for name in (*StreamRow._fields, "load_id")]
_ROWS = f"select {', '.join(_COLUMNS)} from raw.stream_listens where {_WITHIN} order by listened_at, 1"


def day_of(seconds: int) -> int:
    """Return the day (since 1970, UTC) of a time in seconds."""
    return seconds // _DAY_SECONDS


class ListensArchive:
    """The Parquet files under `folder`. Days that the table knows nothing of are left as they are."""

    def __init__(self, login: Credentials, folder: Path) -> None:
        self._login = login
        self.folder = folder

    def path(self, day: int) -> Path:
        """Return the file of a day (since 1970)."""
        name = datetime.fromtimestamp(day * _DAY_SECONDS, UTC).date().isoformat()
        return self.folder / f"day={name}" / "listens.parquet"

    def update(self, days: Iterable[int] | None = None) -> int:
        """Write the files of `days` (default: all) that don't hold what the table does; return how many.

        Any number of processes may do it at once. Raises `DatabaseError`, or `PulseError` for a folder that can't be
        written.
        """
        wanted = None if days is None else sorted(set(days))
        if wanted == []:
            return 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Reading and renaming under one lock: else an older state could be the last to be renamed.
            with FileLock(self.folder / ".lock"), _snapshot(self._login) as cursor:
                stale = [(day, print_) for day, print_ in _state(cursor, wanted) if self._held(day) != print_]
                for day, fingerprint in stale:
                    self._write(cursor, day, fingerprint)
        except OSError as error:
            raise PulseError(
                f"can't write the archive {self.folder}: {error.strerror}; set PULSE_ARCHIVE_DIR"
            ) from error
        return len(stale)

    def _held(self, day: int) -> str | None:
        """Return the fingerprint of what the file of a day holds; None if there is no (whole) file."""
        try:
            metadata = pq.read_metadata(self.path(day)).metadata or {}
        except (FileNotFoundError, pa.ArrowInvalid):
            return None
        return str(metadata.get(_FINGERPRINT.encode(), b"").decode())

    def _write(self, cursor: Any, day: int, fingerprint: str) -> None:
        path = self.path(day)
        path.parent.mkdir(exist_ok=True)
        aside = path.with_name(f".{path.name}.new")  # readers of Parquet folders pass over names with a dot
        cursor.execute(_ROWS.format(day=day))
        reader = cursor.fetch_record_batch()
        with aside.open("wb") as file:
            with pq.ParquetWriter(file, reader.schema, compression="zstd") as writer:
                for table in _row_groups(reader):
                    writer.write_table(table)
                writer.add_key_value_metadata({_FINGERPRINT: fingerprint})
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)


class Archiver:
    """Keeps an archive up to date in a thread of its own: all of it once, then the days that were touched.

    What goes wrong is logged and tried again the next time; nothing is lost by it, the table has it all.
    """

    def __init__(self, archive: ListensArchive, seconds: float = ARCHIVE_SECONDS) -> None:
        self._archive = archive
        self._seconds = seconds
        self._touched: set[int] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)

    def touch(self, days: Iterable[int]) -> None:
        """Say that rows of these days were committed."""
        with self._lock:
            self._touched.update(days)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Bring the archive up to date once more, and end."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        days: set[int] | None = None
        is_last = False
        while True:
            try:
                files = self._archive.update(days)
                days = set()
                log.debug("archive: %d files written", files)
            except PulseError as error:
                log.warning("the archive waits: %s", error)
            if is_last:
                return
            is_last = self._stop.wait(self._seconds)
            with self._lock:
                touched, self._touched = self._touched, set()
            days = None if days is None else days | touched


def _state(cursor: Any, days: list[int] | None) -> list[tuple[int, str]]:
    """Return the fingerprint of what the table holds of each day."""
    chosen = days if days is not None and len(days) <= _MANY_DAYS else None
    within = "true" if chosen is None else " or ".join(_WITHIN.format(day=day) for day in chosen)
    cursor.execute(_STATE.format(within=within))
    wanted = None if days is None else set(days)
    return [
        (day, f"{_FORMAT} {fingerprint}") for day, fingerprint in cursor.fetchall() if wanted is None or day in wanted
    ]


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
        raise DatabaseError(f"reading raw.stream_listens failed: {text}") from error
