"""marts -> Parquet snapshots, in a folder or on S3; only what changed is written.

    manifest.json                                 the snapshot: which files belong to it
    listen_events/month=2019-03/part-<id>.parquet   by month of `day`; daily_aggregates alike
    tracks/part-<id>.parquet                        the other tables whole

All tables are read from one snapshot of the database, by two connections at a time. A file is named by the fingerprint
of what it holds and is never written again under that name: it comes whole (written aside, then renamed; on S3 one
put), then the manifest is swapped in, then files of older snapshots are removed. So a reader who goes by the manifest
(`snapshot_files`) sees one whole snapshot, the old or the new. A glob over `*.parquet` is right at any time but between
swap and removal.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from music_pulse.database import connect
from music_pulse.errors import ConfigurationError, DatabaseError, PulseError
from music_pulse.settings import Credentials, Settings

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
BY_MONTH = {"listen_events": "played_at_ts, listen_id", "daily_aggregates": "day, metric, dimension"}
"""Tables in a file a month, and the order of their rows."""
WHOLE = {
    "tracks": "track_id",
    "artists": "artist_id",
    "daily_top": "day, kind, rank",
    "user_daily_tracks": "day, user_id, track_id",
    "reconciliation": "user_id",
}
"""Tables in one file, and the order of their rows."""
BY_DAY = {"daily_aggregates": "daily_measures", "daily_top": "daily_top"}
"""Tables of which a file fits in memory, as it holds what was heard on its days, not each listen, and what they are
read from: `daily_measures` is a quarter of the rows, of which Arrow makes a row a metric. They come as a row of arrays
a day, read in less than half the time of a row each, and Arrow sorts them in a fifth of the time that the database
takes. The others are streamed in the database's order."""

CONNECTIONS = 2
"""How many files are read and written at a time."""
ROW_GROUP_ROWS = 100_000
_BATCH_BYTES = 4 * 1024 * 1024

Progress = Callable[[int, int, str], None]
"""Called with (files done, files in all, file name)."""


@dataclass
class Export:
    """What an export did, in files; `rows` a table."""

    location: str
    written: int = 0
    kept: int = 0
    removed: int = 0
    rows: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    """One file of a snapshot: what is in it and, by its fingerprint, in which version."""

    table: str
    month: str | None
    fingerprint: str

    @property
    def path(self) -> str:
        folder = f"{self.table}/month={self.month}" if self.month else self.table
        return f"{folder}/part-{self.fingerprint}.parquet"


def export_marts(settings: Settings, to: str | None = None, *, progress: Progress = lambda *_: None) -> Export:
    """Bring the snapshot at `to` (default: `settings.export_dir`) up to date; a folder or `s3://bucket/prefix`.

    Raises `DatabaseError` where there are no marts, `PulseError` where the place can't be written.
    """
    location = to or settings.export_dir
    login = settings.credentials("reader")
    with _one_export(login, location), _one_line_errors(location):
        storage = _Storage.open(settings, location)
        with _snapshot(login) as cursors:
            return _bring_up_to_date(storage, cursors, Export(location), progress)


def remove_leftovers(settings: Settings) -> int:
    """Remove what the snapshot of the settings does not name: rests of interrupted exports. Return how many files."""
    location = settings.export_dir
    with _one_export(settings.credentials("reader"), location), _one_line_errors(location):
        storage = _Storage.open(settings, location)
        named = set(storage.manifest())
        return storage.remove_all_but(named) if named else 0


def snapshot_files(location: str | Path, table: str) -> list[str]:
    """Return the files of one table in the current snapshot of a local folder."""
    manifest = json.loads((Path(location) / MANIFEST).read_text(encoding="utf-8"))
    return [str(Path(location) / entry["path"]) for entry in manifest["files"] if entry["table"] == table]


def _bring_up_to_date(storage: _Storage, cursors: Sequence[Any], export: Export, progress: Progress) -> Export:
    columns = _columns(cursors[0])
    parts = _parts(cursors[0], columns)
    old = storage.manifest()
    kept = {part: old[part.path] for part in parts if part.path in old and storage.exists(part.path)}
    free: SimpleQueue[Any] = SimpleQueue()
    for cursor in cursors:
        free.put(cursor)

    def write(part: _Part) -> dict[str, Any]:
        cursor = free.get()
        try:
            return _write(storage, cursor, part, columns)
        finally:
            free.put(cursor)

    entries: list[dict[str, Any]] = []
    with ThreadPoolExecutor(len(cursors)) as pool:
        try:
            missing = (part for part in parts if part not in kept)
            # The whole tables first, which take longest: else one of them is left for the end, and a core is idle.
            written = {part: pool.submit(write, part) for part in sorted(missing, key=lambda part: part.month or "")}
            for number, part in enumerate(parts, start=1):
                entries.append(kept[part] if part in kept else written[part].result())
                export.rows[part.table] = export.rows.get(part.table, 0) + entries[-1]["rows"]
                progress(number, len(parts), part.path)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    export.written, export.kept = len(written), len(kept)
    paths = {part.path for part in parts}
    if written or paths != set(old):
        storage.swap_manifest(entries)
    export.removed = storage.remove_all_but(paths)
    return export


def _write(storage: _Storage, cursor: Any, part: _Part, columns: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    order = (BY_MONTH.get(part.table) or WHOLE[part.table]).split(", ")
    # Every order begins or ends with a key, so the same rows give the same file; uuids are ordered as themselves.
    if source := BY_DAY.get(part.table):
        found = _by_day(cursor, source, part.month, columns[source])
        by_order = _by_metric(found) if source != part.table else found.sort_by([(name, "ascending") for name in order])
        reader = by_order.to_reader(ROW_GROUP_ROWS)
    else:
        chosen = ", ".join(f"{_readable(name, kind)} as {name}" for name, kind in columns[part.table].items())
        keys = ", ".join(f"marts.{part.table}.{name}" for name in order)
        cursor.execute(f"select {chosen} from marts.{part.table} {_in_month(part.month)} order by {keys}")
        reader = cursor.fetch_record_batch()
    rows = 0
    with (
        storage.new_file(part.path) as sink,
        pq.ParquetWriter(sink, reader.schema, compression="zstd") as writer,
    ):
        for table in _row_groups(reader):
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
            rows += table.num_rows
    return {"table": part.table, "month": part.month, "path": part.path, "rows": rows}


def _by_day(cursor: Any, table: str, month: str | None, columns: Mapping[str, str]) -> pa.Table:
    """Read rows in no order."""
    arrays = (f"array_agg({_readable(name, kind)}) as {name}" for name, kind in columns.items() if name != "day")
    cursor.execute(f"select day, {', '.join(arrays)} from marts.{table} {_in_month(month)} group by day")
    reader = cursor.fetch_record_batch()
    days = list(reader) or [pa.RecordBatch.from_pylist([], reader.schema)]
    return pa.Table.from_batches([_flat(batch).select(list(columns)) for batch in days])


def _by_metric(measures: pa.Table) -> pa.Table:
    """Return the rows of `daily_aggregates`, by day, metric, and dimension; a metric that is null has none."""
    keys = ["day", "dimension"]
    measures = measures.sort_by([(name, "ascending") for name in keys])
    metrics = []
    for name in sorted(set(measures.column_names) - set(keys)):
        known = measures.select([*keys, name]).filter(measures[name].is_valid())
        values = {"metric": pa.repeat(name, len(known)), "value": known[name].cast(pa.float64())}
        metrics.append(pa.table({"day": known["day"], "dimension": known["dimension"], **values}))
    rows = pa.concat_tables(metrics).select(["day", "metric", "dimension", "value"]).combine_chunks()
    return rows.take(pc.sort_indices(rows["day"]))  # stable: within a day they stay as they are


def _flat(days: pa.RecordBatch) -> pa.RecordBatch:
    """Return a row each of rows of a day and of arrays that are equally long."""
    lists = {name: days[name] for name in days.schema.names if name != "day"}
    day_of_row = pc.list_parent_indices(next(iter(lists.values())))
    values = {name: pc.list_flatten(column) for name, column in lists.items()}
    return pa.RecordBatch.from_pydict({"day": days["day"].take(day_of_row), **values})


def _readable(name: str, kind: str) -> str:
    return f"cast({name} as text)" if kind == "uuid" else name


def _row_groups(reader: Any) -> Iterator[pa.Table]:
    """Gather record batches to row groups of about `ROW_GROUP_ROWS`."""
    gathered: list[pa.RecordBatch] = []
    rows = 0
    for batch in reader:
        gathered.append(batch)
        rows += batch.num_rows
        if rows >= ROW_GROUP_ROWS:
            yield pa.Table.from_batches(gathered)
            gathered, rows = [], 0
    if gathered:
        yield pa.Table.from_batches(gathered)


def _in_month(month: str | None) -> str:
    if month is None:
        return ""
    first = f"{month}-01"
    return f"where day >= date '{first}' and day < date '{first}' + interval '1 month'"


def _columns(cursor: Any) -> dict[str, dict[str, str]]:
    """Return the columns of each exported mart, in order, with their types."""
    cursor.execute(
        """
        select cast(table_name as text), cast(column_name as text), cast(data_type as text)
        from information_schema.columns
        where table_schema = 'marts'
        order by table_name, ordinal_position
        """
    )
    found: dict[str, dict[str, str]] = {}
    for table, column, kind in cursor.fetchall():
        found.setdefault(table, {})[column] = kind
    missing = [table for table in (*BY_MONTH, *WHOLE, *BY_DAY.values()) if table not in found]
    if missing:
        raise DatabaseError(f"nothing to export yet: marts.{missing[0]} isn't built; run `pulse dbt build`")
    return found


def _parts(cursor: Any, columns: dict[str, dict[str, str]]) -> list[_Part]:
    """Return the files that the snapshot should have. A change of any listen moves its month's fingerprint."""
    cursor.execute("set local max_parallel_workers_per_gather = 2")  # the other connection waits for it
    cursor.execute(
        """
        select to_char(day, 'YYYY-MM'), cast(sum(listens) as bigint), cast(max(newest) as text)
        from (  -- by day first: few are written out as months
            select day, count(*) as listens, max(updated_at) as newest
            from marts.listen_events
            group by day
        ) as days
        group by 1
        order by 1
        """
    )
    months = {month: f"{count} {newest}" for month, count, newest in cursor.fetchall()}
    cursor.execute("set local max_parallel_workers_per_gather to default")
    cursor.execute(
        """
        select md5(coalesce(string_agg(cast(rows as text), chr(31) order by user_id), ''))
        from marts.reconciliation as rows
        """
    )
    whole = {table: repr(months) for table in WHOLE} | {"reconciliation": cursor.fetchone()[0]}
    parts = [
        _Part(table, month, _fingerprint(state, columns[BY_DAY.get(table, table)]))
        for table in BY_MONTH
        for month, state in months.items()
    ]
    return parts + [_Part(table, None, _fingerprint(state, columns[table])) for table, state in whole.items()]


def _fingerprint(state: str, columns: dict[str, str]) -> str:
    return hashlib.sha256(repr((FORMAT_VERSION, state, columns)).encode()).hexdigest()[:16]


class _Storage:
    """A folder, local or on S3, that holds one snapshot."""

    def __init__(self, filesystem: Any, root: str, is_local: bool) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self._is_local = is_local

    @classmethod
    def open(cls, settings: Settings, location: str) -> _Storage:
        """Open `location`; an address of a kind that we don't know raises `ConfigurationError`."""
        import fsspec

        if "://" not in location:
            Path(location).mkdir(parents=True, exist_ok=True)
            return cls(fsspec.filesystem("file"), str(Path(location).absolute()), is_local=True)
        if not location.startswith("s3://"):
            raise ConfigurationError(f"{location}: an export goes to a folder or to s3://bucket/prefix")
        secret = settings.s3_secret_access_key
        filesystem = fsspec.filesystem(
            "s3",
            key=settings.s3_access_key_id,
            secret=secret.get_secret_value() if secret else None,
            endpoint_url=settings.s3_endpoint_url,
            skip_instance_cache=True,
            use_listings_cache=False,
        )
        return cls(filesystem, location.removeprefix("s3://"), is_local=False)

    def manifest(self) -> dict[str, dict[str, Any]]:
        """Return the current snapshot's entries by path; none where there is no (readable) snapshot."""
        try:
            found = json.loads(self._filesystem.cat_file(self._path(MANIFEST)))
            return {entry["path"]: entry for entry in found["files"]} if found["version"] == FORMAT_VERSION else {}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError):
            logger.warning("the manifest can't be read: the whole snapshot is written anew")
            return {}

    def exists(self, path: str) -> bool:
        """Whether a file is there."""
        return bool(self._filesystem.exists(self._path(path)))

    @contextmanager
    def new_file(self, path: str) -> Iterator[Any]:
        """Open a file for writing that appears under `path` only when it is whole."""
        target = self._path(path)
        if not self._is_local:
            with self._filesystem.open(target, "wb") as file:
                yield file
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        aside = target + ".tmp"
        try:
            with open(aside, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, target)
        except BaseException:
            if os.path.exists(aside):
                os.unlink(aside)
            raise

    def swap_manifest(self, entries: list[dict[str, Any]]) -> None:
        """Make `entries` the current snapshot."""
        manifest = {
            "version": FORMAT_VERSION,
            "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "files": entries,
        }
        with self.new_file(MANIFEST) as file:
            file.write(json.dumps(manifest, indent=1).encode())

    def remove_all_but(self, paths: set[str]) -> int:
        """Remove data files that the snapshot doesn't name, and what an interrupted export left."""
        removed = 0
        for table in (*BY_MONTH, *WHOLE):
            for found in self._filesystem.find(self._path(table)):
                name = str(found).removeprefix(self._root + "/")
                if name not in paths and name.endswith((".parquet", ".tmp")):
                    self._filesystem.rm_file(found)
                    removed += 1
                    self._remove_if_empty(os.path.dirname(str(found)))
        return removed

    def _remove_if_empty(self, folder: str) -> None:
        if self._is_local and not os.listdir(folder):
            os.rmdir(folder)

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"


@contextmanager
def _snapshot(login: Credentials) -> Iterator[list[Any]]:
    """Yield cursors of connections that all read one state of the database, and can only read."""
    from urllib.parse import quote

    from adbc_driver_manager import Error
    from adbc_driver_postgresql import dbapi

    user, password, dbname = (quote(part, safe="") for part in (login.user, login.password, login.dbname))
    uri = f"postgresql://{user}:{password}@{login.host}:{login.port}/{dbname}?sslmode={login.sslmode}"
    try:
        with ExitStack() as opened:
            cursors: list[Any] = []
            snapshot = None
            for _ in range(CONNECTIONS):
                connection = opened.enter_context(dbapi.connect(uri))
                opened.callback(connection.rollback)
                cursor = opened.enter_context(connection.cursor())
                cursor.execute("set transaction isolation level repeatable read read only")
                if snapshot is None:
                    cursor.execute("select pg_export_snapshot()")
                    [[snapshot]] = cursor.fetchall()
                else:
                    cursor.execute(f"set transaction snapshot '{snapshot}'")
                cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(_BATCH_BYTES)})
                cursors.append(cursor)
            yield cursors
    except Error as error:
        text = " ".join(str(error).split())[:300]
        raise DatabaseError(f"reading the marts failed: {text}") from error


@contextmanager
def _one_export(login: Credentials, location: str) -> Iterator[None]:
    """Let one export at a time write to `location`, wherever it runs: the lock is the database's."""
    key = int.from_bytes(hashlib.sha256(location.encode()).digest()[:7], "big")
    with connect(login, autocommit=True) as connection:
        if connection.execute("select pg_try_advisory_lock(%s)", [key]).fetchone() != (True,):
            logger.warning("another export to %s is running: waiting for it to end", location)
            connection.execute("select pg_advisory_lock(%s)", [key])
        yield


@contextmanager
def _one_line_errors(location: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = "no space left" if error.errno == errno.ENOSPC else error.strerror or str(error)
        text = " ".join(str(reason).split())[:200]
        raise PulseError(f"export to {location} failed: {text} (the snapshot there is still the old one)") from error
    except Exception as error:
        if type(error).__module__.startswith("botocore."):  # no credentials, no such server, …
            text = " ".join(str(error).split())[:200]
            raise PulseError(f"export to {location} failed: {text}; check PULSE_S3_*") from error
        raise
