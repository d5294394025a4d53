"""Batches of the trending job -> raw.trending_windows, each exactly once.

One transaction a batch: lock the row of this query in raw.trending_ledger; write nothing if the batch is not beyond
the last one written; keep other writers out; add what the batch changes to the windows; save the batch's id and the
watermark; notify. So a batch that Spark repeats (it crashed between our commit and its own, or lost its newest commit)
changes nothing, though its plan still runs: without that, Spark's state would not be committed.

The ledger is keyed by the query's id, which stands in the checkpoint: batches of a new checkpoint are new again. Such
a query has no state of what came before it, so it writes only windows that it sees whole, and these from nothing.

While there is a backlog, a batch is written beside Spark's work on the next one. Spark may have committed it by then,
and won't repeat it; so it stands in the checkpoint until it is written, for the next start.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from pgpq import ArrowToPostgresBinaryEncoder

from music_pulse.database import connect, one_line
from music_pulse.errors import DatabaseError
from music_pulse.settings import Credentials
from streaming.client.backoff import delays
from streaming.kept_batch import KeptBatch
from streaming.tables import LOCK_WINDOWS
from streaming.transforms import window_changes
from streaming.trending_changes import Changes
from streaming.trending_rules import TrendingRules

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

logger = logging.getLogger(__name__)

CHANNEL = "trending"
"""Of NOTIFY; the payload is the batch's newest window, in seconds since 1970."""

LATE = "late"

_PATIENCE_SECONDS = 300.0
"""How long a batch waits for a database that is gone."""

_FEW_LISTENS = 10_000
"""A batch of fewer is written before another one begins, which is counted here, if it has fewer than `_FEW_ROWS`."""
_FEW_ROWS = 2 * _FEW_LISTENS
"""Of `recent_listens`: most listens are one, some two; and some stand beside others, of a flooder all."""

_SECONDS = pa.timestamp("s", tz="UTC")
_TIME = pa.timestamp("us", tz="UTC")
_STAGE = """
create temporary table if not exists trending_changes (
    window_start bigint, kind text, id uuid, listens bigint, listeners bigint, artist_name text, track_name text
) on commit delete rows
"""
_COPY_ROWS = 20_000
"""Are encoded at a time, while Postgres takes those before."""
_COPY = "copy trending_changes from stdin (format binary)"
_COPY_NEW = """
copy raw.trending_windows (
    window_start, entity_kind, entity_id, listen_count, listener_count, artist_name, track_name, window_end, updated_at
) from stdin (format binary)
"""
_HELD = "select coalesce(extract(epoch from max(window_start)), 0)::bigint, now() from raw.trending_windows"
_MERGE = """
merge into raw.trending_windows as held
using (
    select *, to_timestamp(window_start) as starts, to_timestamp(window_start) + %(length)s as ends
    from trending_changes
) as changes
on
    held.window_start = changes.starts
    and held.window_end = changes.ends
    and held.entity_kind = changes.kind
    and held.entity_id = changes.id
    and held.window_start >= to_timestamp(%(first)s)
when matched then update set
    listen_count = held.listen_count + coalesce(changes.listens, 0),
    listener_count = held.listener_count + coalesce(changes.listeners, 0),
    artist_name = least(held.artist_name collate "C", changes.artist_name collate "C"),
    track_name = least(held.track_name collate "C", changes.track_name collate "C"),
    updated_at = now()
when not matched and changes.listens > 0 then insert (
    window_start, window_end, entity_kind, entity_id, artist_name, track_name, listen_count, listener_count, updated_at
) values (
    changes.starts, changes.ends, changes.kind, changes.id, changes.artist_name, changes.track_name, changes.listens,
    changes.listeners, now()
)
"""
_SAVE = """
update raw.trending_ledger set
    batch_id = %(batch_id)s,
    watermark = greatest(watermark, %(watermark)s),
    updated_at = now()
where query_id = %(query_id)s
"""
COUNT_LEFT_OUT = """
insert into raw.trending_left_out (query_id, batch_id, reason, events) values (%s, %s, %s, %s) on conflict do nothing
"""


def _copy(cursor: psycopg.Cursor, statement: str, rows: pa.Table) -> None:
    encoder = ArrowToPostgresBinaryEncoder(rows.schema)
    with cursor.copy(statement) as copy:
        copy.write(encoder.write_header())
        for batch in rows.to_batches(max_chunksize=_COPY_ROWS):
            copy.write(encoder.write_batch(batch))
        copy.write(encoder.finish())


class TrendingSink:
    """Writes batches for `foreachBatch`; holds one connection, and makes a new one when the database comes back.

    The checkpoint names the query, and holds the batch that Spark may have committed and Postgres has not.
    """

    def __init__(
        self,
        login: Credentials,
        rules: TrendingRules,
        checkpoint: Path,
        *,
        whole_from: datetime | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._login = login
        self._rules = rules
        self._checkpoint = checkpoint
        self._kept = KeptBatch(checkpoint / "kept.arrow")
        self._whole_from = whole_from
        self._stop = stop or threading.Event()
        self._connection: psycopg.Connection | None = None
        self._last = -1
        self._are_few = False
        self._beside = ThreadPoolExecutor(1, "trending-sink")
        self._writing: Future[None] | None = None

    def catch_up(self) -> None:
        """Write what an earlier run kept and didn't write, before its query starts anew.

        Raises what `flush` raises, and `StreamError`: what was kept is damaged.
        """
        if not (self._checkpoint / "metadata").exists():
            self._kept.remove()  # of a query that Spark knows nothing of any more: all is read again
            return
        if (kept := self._kept.read()) is not None:
            self._write_kept(*kept)
        self._last = self._patiently(self._last_batch)

    def __call__(self, listens: DataFrame, batch_id: int) -> None:
        """Write one batch of `transforms.recent_listens`, or begin to. Raises what `flush` raises."""
        if batch_id <= self._last:
            logger.info("batch %d was counted before: only its state is made anew", batch_id)
            listens.write.format("noop").mode("overwrite").save()
            return
        are_handed_back = False
        if self._are_few:
            recent = listens.toArrow()
            if recent.num_rows < _FEW_ROWS:
                self.flush()
                self._write(Changes.of_few(recent, self._rules), batch_id)
                self._last = batch_id
                return
            are_handed_back = True  # more than looked for; their plan has run
            listens = listens.sparkSession.createDataFrame(recent)
        rows = window_changes(listens, self._rules).toArrow()
        are_few = (pc.sum(rows["came"]).as_py() or 0) < _FEW_LISTENS
        self.flush()
        self._are_few = are_few and not are_handed_back
        if are_few:
            self._write(Changes.of(rows, self._rules), batch_id)
        else:
            self._kept.keep(rows, batch_id)
            self._writing = self._beside.submit(self._write_kept, rows, batch_id)
        self._last = batch_id

    def flush(self) -> None:
        """Wait until all batches are written. Raises `DatabaseError`, after minutes if there is no database."""
        if (writing := self._writing) is not None:
            writing.result()
            self._writing = None

    @cached_property
    def query_id(self) -> UUID:
        """Of the checkpoint, once a query has started there."""
        return UUID(json.loads((self._checkpoint / "metadata").read_text(encoding="utf-8"))["id"])

    @property
    def has_failed(self) -> bool:
        """Whether a batch could not be written: `flush` tells why."""
        writing = self._writing  # another thread's
        return writing is not None and writing.done() and writing.exception() is not None

    def write(self, connection: psycopg.Connection, changes: Changes, batch_id: int) -> bool:
        """Write in one transaction; return whether the batch was new."""
        with connection.transaction():
            last, watermark, whole_from = self._locked(connection)
            if last >= batch_id:
                return False
            connection.execute(LOCK_WINDOWS)
            if last < 0 and whole_from is not None:
                connection.execute("delete from raw.trending_windows where window_start >= %s", [whole_from])
            closed = -1.0 if watermark is None else watermark.timestamp()
            length = self._rules.window_minutes * 60
            first = 0.0 if whole_from is None else whole_from.timestamp()
            starts = changes.windows["window_start"]
            rows = changes.windows.filter(pc.and_(pc.greater(starts, closed - length), pc.greater_equal(starts, first)))
            late = sum(
                listens
                for slide, listens in changes.slides.items()
                if self._first_end(slide) <= closed and self._first_end(slide) - length >= first
            )
            self._merge(connection, rows)
            if late:
                connection.execute(COUNT_LEFT_OUT, [self.query_id, batch_id, LATE, late])
            connection.execute(
                _SAVE, {"query_id": self.query_id, "batch_id": batch_id, "watermark": self._watermark(changes)}
            )
            newest = pc.max(rows["window_start"]).as_py() or 0
            connection.execute("select pg_notify(%s, %s)", [CHANNEL, str(newest)])
        return True

    def close(self) -> None:
        """Write what is begun, and close the connection, once no batch comes any more. Raises what `flush` raises."""
        try:
            self.flush()
        finally:
            self._beside.shutdown()
            if self._connection is not None:
                self._connection.close()

    def _write_kept(self, rows: pa.Table, batch_id: int) -> None:
        self._write(Changes.of(rows, self._rules), batch_id)
        self._kept.remove()

    def _write(self, changes: Changes, batch_id: int) -> None:
        self._patiently(lambda connection: self.write(connection, changes, batch_id))

    def _first_end(self, slide: int) -> int:
        """Return when the oldest window with the listens of `slide` ends: if it is closed, they are late for it."""
        return slide + self._rules.slide_minutes * 60

    def _watermark(self, changes: Changes) -> datetime | None:
        if changes.newest is None:
            return None
        return datetime.fromtimestamp(changes.newest, UTC) - timedelta(minutes=self._rules.watermark_minutes)

    def _locked(self, connection: psycopg.Connection) -> tuple[int, datetime | None, datetime | None]:
        connection.execute(
            "insert into raw.trending_ledger (query_id, batch_id, whole_from, updated_at) values (%s, -1, %s, now())"
            " on conflict do nothing",
            [self.query_id, self._whole_from],
        )
        row = connection.execute(
            "select batch_id, watermark, whole_from from raw.trending_ledger where query_id = %s for update",
            [self.query_id],
        ).fetchone()
        assert row is not None
        return row[0], row[1], row[2]

    def _last_batch(self, connection: psycopg.Connection) -> int:
        statement = "select batch_id from raw.trending_ledger where query_id = %s"
        row = connection.execute(statement, [self.query_id]).fetchone()
        return -1 if row is None else int(row[0])

    def _merge(self, connection: psycopg.Connection, rows: pa.Table) -> None:
        with connection.cursor() as cursor:
            row = cursor.execute(_HELD).fetchone()
            assert row is not None
            held, now = row
            is_held = pc.less_equal(rows["window_start"], held)
            self._insert(cursor, rows.filter(pc.invert(is_held)), now)
            changes = rows.filter(is_held)
            cursor.execute(_STAGE)
            _copy(cursor, _COPY, changes)
            first = pc.min(changes["window_start"]).as_py() or 0
            cursor.execute(_MERGE, {"length": timedelta(minutes=self._rules.window_minutes), "first": first})

    def _insert(self, cursor: psycopg.Cursor, rows: pa.Table, now: datetime) -> None:
        """Write windows later than any that stands in the table: to copy them there takes half of what a merge does."""
        rows = rows.filter(pc.greater(rows["listens"], 0))
        starts = rows["window_start"]
        ends = pc.add(starts, self._rules.window_minutes * 60)
        start, end = (times.cast(_SECONDS).cast(_TIME) for times in (starts, ends))
        rows = rows.set_column(0, "window_start", start).append_column("window_end", end)
        _copy(cursor, _COPY_NEW, rows.append_column("updated_at", pa.repeat(pa.scalar(now, _TIME), rows.num_rows)))

    def _patiently(self, step: Any) -> Any:
        """Run `step` on a connection; while the database is gone, try again with a new one."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for delay in delays(longest=5.0):
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = connect(self._login, autocommit=True)
                    self._connection.execute("set temp_buffers = '32MB'")  # a full batch of changes stays in memory
                return step(self._connection)
            except (psycopg.OperationalError, DatabaseError) as error:
                if time.monotonic() > deadline or self._stop.is_set():
                    raise DatabaseError(f"trending windows can't be written: {one_line(error)}") from error
                logger.warning("the database is gone, trying again: %s", one_line(error))
                if self._connection is not None:
                    self._connection.close()
                self._connection = None
                self._stop.wait(delay)
            except psycopg.Error as error:
                raise DatabaseError(f"trending windows can't be written: {one_line(error)}") from error
        raise AssertionError("delays never end")
