"""Where and how everything lands: one dlt pipeline a source, Arrow -> Parquet -> ADBC -> schema `raw`.

The destination is the truth. Under one advisory lock, each run first forgets what an interrupted one left
(rows whose load was never completed, packages on disk) and takes the state from the destination; what was in
flight is read again. So a crash anywhere leaves neither a gap nor a double.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extract.tombstones import is_bound
from music_pulse.blocklist import Blocklist, read_blocklist
from music_pulse.database import connect
from music_pulse.errors import DatabaseError, PulseError
from music_pulse.settings import Credentials, Settings

if TYPE_CHECKING:
    import dlt
    import psycopg

    from extract.rows import Rows

logger = logging.getLogger(__name__)

DATASET = "raw"
RAW_TABLES = (
    "listens", "quarantine", "listen_counts", "imported_files", "listen_tombstones", "recordings", "track_recordings"
)  # fmt: skip
LANDING_LOCK = 7_310_241_001
"""Key of the advisory lock that lets one landing run at a time."""
_CREATION_LOCK = 7_310_241_009
_GC_THRESHOLD = 50_000

RAW_CONTRACT: Any = {"tables": "evolve", "columns": "evolve", "data_type": "freeze"}
"""The Arrow schemas are the contract; `raw.sql` adds the columns that a new version of them has."""

_CONFIG = {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "CRITICAL",
    "NORMALIZE__PARQUET_NORMALIZER__ADD_DLT_LOAD_ID": "true",
    # Two cores: more loaders only take memory. A failed job fails the run instead of waiting for a retry.
    "LOAD__WORKERS": "2",
    "LOAD__RAISE_ON_FAILED_JOBS": "true",
    # ADBC takes a whole file into memory (about 400 bytes a row).
    "DATA_WRITER__FILE_MAX_ITEMS": "150000",
    # Its files are read once, here, and deleted.
    "DATA_WRITER__COMPRESSION": "none",
    "SCHEMA__NAMING": "snake_case",
    # Where Airflow is installed, dlt would import it and ask its variables for each option: seconds a run.
    "PROVIDERS__ENABLE_AIRFLOW_SECRETS": "false",
}


@dataclass
class Landed:
    """What one run wrote to raw, in rows."""

    listens: int = 0
    refused: int = 0

    def __iadd__(self, other: Landed) -> Landed:
        self.listens += other.listens
        self.refused += other.refused
        return self


@dataclass(frozen=True)
class Landing:
    """An open landing: a dlt pipeline that is in step with its destination, and a loader's connection."""

    pipeline: dlt.Pipeline
    connection: psycopg.Connection
    blocklist: Blocklist
    """Who must not be landed. An erasure waits for the landing to end."""

    def run(self, data: Any) -> Landed:
        """Load a dlt source or resource as one package: all of it is committed, or nothing counts."""
        with _one_line_errors():
            self.pipeline.run(data, loader_file_format="parquet")
        trace = self.pipeline.last_trace
        counts = trace.last_normalize_info.row_counts if trace and trace.last_normalize_info else {}
        landed = Landed(listens=counts.get("listens", 0), refused=counts.get("quarantine", 0))
        logger.info("loaded %d listens, %d refused", landed.listens, landed.refused)
        return landed

    def state(self, source: str) -> dict[str, Any]:
        """Return the state of a dlt source as last committed."""
        state: dict[str, Any] = self.pipeline.state.get("sources", {}).get(source, {})
        return state

    def landed_hashes(self, source: str, user_name: str, start: int, end: int) -> frozenset[bytes]:
        """Return the payload hashes of what this user's [start, end) (seconds) holds, quarantine included.

        Rows that a tombstone binds aren't held: they must land when they come again.
        """
        rows = self.connection.execute(
            f"""
            with landed as (
                select payload_hash, user_name, _dlt_load_id from raw.listens
                where source = %(source)s and user_name = %(user)s
                  and listened_at >= to_timestamp(%(start)s) and listened_at < to_timestamp(%(end)s)
                union all
                select payload_hash, user_name, _dlt_load_id from raw.quarantine
                where source = %(source)s and user_name = %(user)s
            )
            select landed.payload_hash from landed
            where not {is_bound("landed")}
            """.encode(),
            {"source": source, "user": user_name, "start": start, "end": end},
        )
        return frozenset(row[0].bytes for row in rows)


@contextmanager
def landing(settings: Settings, name: str) -> Iterator[Landing]:
    """Open the pipeline `name` for landing; waits while another landing runs."""
    with connect(settings.credentials("loader"), autocommit=True) as connection, _one_line_errors():
        _lock(connection)
        create_raw_tables(connection)
        pipeline = pipeline_for(settings, name)
        if pipeline.has_pending_data:
            logger.info("an interrupted load is forgotten and read again")
        pipeline.drop()
        _forget_uncommitted(connection)
        pipeline.sync_destination()
        thresholds = gc.get_threshold()
        # Rows are values without cycles: to look through all of them again after each 700 new ones is in vain.
        gc.set_threshold(_GC_THRESHOLD, *thresholds[1:])
        try:
            yield Landing(pipeline, connection, read_blocklist(connection, settings))
        finally:
            gc.set_threshold(*thresholds)
            _give_back_memory()


def pipeline_for(settings: Settings, name: str) -> dlt.Pipeline:
    """Return the dlt pipeline `name` into schema raw; its working folder is under `settings.home`."""
    os.environ.update(_CONFIG)
    import dlt

    # What was imported stays: without this, each collection walks through dlt's modules again.
    gc.freeze()
    return dlt.pipeline(
        name,
        pipelines_dir=str(pipelines_dir(settings)),
        destination=dlt.destinations.postgres(credentials=_dsn(settings.credentials("loader"))),
        dataset_name=DATASET,
    )


def _give_back_memory() -> None:
    """Return to the system what Arrow and the allocator keep for later: a build comes next, in the same process."""
    import pyarrow as pa

    gc.collect()
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        with suppress(AttributeError):  # only glibc has it
            ctypes.CDLL(None).malloc_trim(0)


def dlt_items(rows: Rows) -> Iterator[Any]:
    """Yield `rows` as a resource yields them, each table with its name.

    No empty table: ADBC can't ingest a file without rows.
    """
    import dlt

    if rows.listens.num_rows:
        yield dlt.mark.with_table_name(rows.listens, "listens")
    if rows.quarantine.num_rows:
        yield dlt.mark.with_table_name(rows.quarantine, "quarantine")
    gc.collect(1)  # dlt's cycles hold the tables of batches that are written


def pipelines_dir(settings: Settings) -> Path:
    """Return the folder for `dlt pipeline --pipelines-dir`."""
    return settings.home / "dlt" / settings.postgres_dbname


def create_raw_tables(connection: psycopg.Connection) -> None:
    """Make the tables and indexes of `raw.sql` where they are missing; any number of processes may do it at once."""
    if _raw_tables_stand(connection):
        return
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", [_CREATION_LOCK])
        if not _raw_tables_stand(connection):
            connection.execute("set local client_min_messages to warning")
            connection.execute((Path(__file__).parent / "raw.sql").read_bytes())


def _raw_tables_stand(connection: psycopg.Connection) -> bool:
    # the last statement of raw.sql makes it
    return connection.execute("select to_regclass('raw.track_recordings_load_id')").fetchone() != (None,)


def _lock(connection: psycopg.Connection) -> None:
    row = connection.execute("select pg_try_advisory_lock(%s)", [LANDING_LOCK]).fetchone()
    if row != (True,):
        logger.warning("another load is running: waiting for it to end")
        connection.execute("select pg_advisory_lock(%s)", [LANDING_LOCK])


def _forget_uncommitted(connection: psycopg.Connection) -> None:
    """Delete rows of loads that were never completed; load ids are found by skipping along the index.

    The lock waits for what a killed process had sent to be committed or not: later it would come to light unseen.
    """
    tables = ", ".join(f"{DATASET}.{table}" for table in (*RAW_TABLES, "_dlt_loads"))
    with connection.transaction():
        connection.execute(f"lock table {tables} in share row exclusive mode".encode())
        _delete_uncommitted(connection)


def _delete_uncommitted(connection: psycopg.Connection) -> None:
    for table in RAW_TABLES:
        deleted = connection.execute(
            f"""
            with recursive loads as (
                (select _dlt_load_id from raw.{table} order by 1 limit 1)
                union all
                select (select _dlt_load_id from raw.{table} where _dlt_load_id > loads._dlt_load_id order by 1 limit 1)
                from loads where loads._dlt_load_id is not null
            )
            delete from raw.{table} where _dlt_load_id in (
                select _dlt_load_id from loads where _dlt_load_id is not null
                except select load_id from raw._dlt_loads where status = 0
            )
            """.encode()
        ).rowcount
        if deleted:
            logger.info("deleted %d rows of an interrupted load from raw.%s", deleted, table)


def _dsn(login: Credentials) -> str:
    from urllib.parse import quote

    user, password = quote(login.user, safe=""), quote(login.password, safe="")
    return (
        f"postgresql://{user}:{password}@{login.host}:{login.port}/{quote(login.dbname, safe='')}"
        f"?sslmode={login.sslmode}&connect_timeout=10"
    )


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turn what dlt and the drivers raise into a `PulseError`; the first cause is the one that tells."""
    try:
        yield
    except (PulseError, KeyboardInterrupt):
        raise
    except Exception as error:
        logger.debug("landing failed", exc_info=True)
        raise _explain(error) from error


def _explain(error: BaseException) -> BaseException:
    cause: BaseException = error
    while True:
        if isinstance(cause, (PulseError, KeyboardInterrupt)):
            return cause
        following = cause.__cause__ or cause.__context__
        if following is None:
            break
        cause = following
    text = " ".join(str(cause).split())[:300] or type(cause).__name__
    return DatabaseError(f"landing in raw failed: {text} (nothing of this load counts; mend the cause and run again)")
