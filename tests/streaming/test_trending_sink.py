"""A batch written beside Spark's next one: kept until it is in Postgres, whatever happens meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock
from uuid import UUID, uuid4

import pyarrow as pa
import pytest
from helpers import MakeWarehouse, execute, query

from music_pulse.database import connect
from music_pulse.errors import DatabaseError
from music_pulse.settings import Settings
from streaming import trending_sink
from streaming.client.errors import StreamError
from streaming.forget import forget_windows
from streaming.kept_batch import KeptBatch
from streaming.tables import LOCK_WINDOWS, create_stream_tables
from streaming.trending_rules import TrendingRules
from streaming.trending_sink import TrendingSink

RULES = TrendingRules()
START = 1_700_000_040 // 60 * 60
ARTIST, TRACK = uuid4(), uuid4()
SCHEMA = pa.schema(
    {
        "window_start": pa.int64(),
        "windows": pa.int64(),
        "kind": pa.string(),
        "id": pa.binary(),
        "listens": pa.int64(),
        "listeners": pa.int64(),
        "came": pa.int64(),
        "newest": pa.int64(),
        "artist_id": pa.binary(),
        "artist_name": pa.string(),
        "track_name": pa.string(),
    }
)
"""Of `transforms.window_changes`."""

RECENT = pa.table(
    {
        "user_key": ["ann"],
        "is_new": [True],
        "slide": [START],
        "window_start": [START],
        "last_start": [START],
        "listened_at": [START + 10],
        "track_id": [TRACK.bytes],
        "artist_id": [ARTIST.bytes],
        "artist_name": ["Can"],
        "track_name": ["Vitamin C"],
    }
)
"""What `Changes.of_few` reads of `transforms.recent_listens`: a listen, as counted in one window."""


@pytest.fixture
def settings(make_warehouse: MakeWarehouse) -> Settings:
    made = make_warehouse()
    with connect(made.credentials("loader"), autocommit=True) as connection:
        create_stream_tables(connection)
    return made


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint whose query has started."""
    (tmp_path / "metadata").write_text(json.dumps({"id": str(uuid4())}), encoding="utf-8")
    return tmp_path


@pytest.fixture
def small_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever has a listen is written beside the next batch."""
    monkeypatch.setattr(trending_sink, "_FEW_LISTENS", 1)
    monkeypatch.setattr(trending_sink, "window_changes", lambda batch, rules: batch)


def rows(listens: int, start: int = START) -> pa.Table:
    """What leaves Spark for some listens of one track, each of another user, in the last window of a slide."""
    window = {"window_start": start, "windows": 1, "listens": listens, "listeners": listens}
    names = {"artist_id": ARTIST.bytes, "artist_name": "Can", "track_name": "Vitamin C"}
    return pa.Table.from_pylist(
        [
            {**window, "kind": "track", "id": TRACK.bytes, "came": listens, "newest": start + 10, **names},
            {**window, "kind": "artist", "id": ARTIST.bytes},
        ],
        schema=SCHEMA,
    )


def batch(listens: int) -> Any:
    """A batch as Spark hands it over, its changes worked out."""
    return SimpleNamespace(toArrow=lambda: rows(listens))


def sink_of(settings: Settings, checkpoint: Path, stop: threading.Event | None = None) -> TrendingSink:
    return TrendingSink(settings.credentials("loader"), RULES, checkpoint, stop=stop)


def written(settings: Settings) -> tuple[list[Any], list[Any]]:
    """Return the windows that have listens, and the ledger."""
    windows = query(settings, "select entity_id, listen_count, listener_count from raw.trending_windows order by 2, 1")
    return windows, query(settings, "select query_id, batch_id from raw.trending_ledger")


def both(listens: int) -> list[tuple[UUID, int, int]]:
    return sorted((each, listens, listens) for each in (ARTIST, TRACK))


def test_what_was_kept_is_written_once(settings: Settings, checkpoint: Path) -> None:
    KeptBatch(checkpoint / "kept.arrow").keep(rows(3), 7)
    repeated = MagicMock()
    with closing(sink_of(settings, checkpoint)) as sink:
        sink.catch_up()
        assert written(settings) == (both(3), [(sink.query_id, 7)])
        sink(repeated, 7)
        assert written(settings) == (both(3), [(sink.query_id, 7)])
    repeated.write.format.assert_called_once_with("noop")  # so that Spark makes its state


def test_a_kill_between_writing_it_and_removing_it_writes_it_no_second_time(
    settings: Settings, checkpoint: Path
) -> None:
    kept = KeptBatch(checkpoint / "kept.arrow")
    for _ in range(2):
        kept.keep(rows(3), 7)
        with closing(sink_of(settings, checkpoint)) as sink:
            sink.catch_up()
            assert written(settings) == (both(3), [(sink.query_id, 7)])
        assert kept.read() is None


def test_a_new_query_has_nothing_to_catch_up_with(settings: Settings, tmp_path: Path) -> None:
    KeptBatch(tmp_path / "kept.arrow").keep(rows(3), 0)  # Spark's own files are lost, say by a power cut
    with closing(sink_of(settings, tmp_path)) as sink:
        sink.catch_up()
    assert written(settings) == ([], [])


@pytest.fixture
def held(settings: Settings) -> Iterator[Any]:
    """The table of windows, locked by somebody else until it is released or the test ends."""
    with connect(settings.credentials("loader")) as connection:
        connection.execute("lock table raw.trending_windows in share row exclusive mode")
        yield connection


@pytest.mark.usefixtures("small_is_full")
def test_spark_goes_on_while_a_batch_is_written(settings: Settings, checkpoint: Path, held: Any) -> None:
    with closing(sink_of(settings, checkpoint)) as sink:
        sink(batch(3), 0)
        next_one = threading.Thread(target=sink, args=(batch(2), 1), daemon=True)
        next_one.start()
        next_one.join(0.5)
        waits, kept, before = next_one.is_alive(), KeptBatch(checkpoint / "kept.arrow").read(), written(settings)
        held.rollback()  # before anything may fail: the end waits for what is begun
        next_one.join(30)
        sink.flush()
        assert waits, "two batches are written at a time"
        assert (kept, before) == ((rows(3), 0), ([], []))
        assert written(settings) == (both(5), [(sink.query_id, 1)])
        assert KeptBatch(checkpoint / "kept.arrow").read() is None


@pytest.mark.usefixtures("small_is_full")
def test_a_vacuum_keeps_no_batch_waiting(settings: Settings, checkpoint: Path) -> None:
    with connect(settings.credentials("loader")) as vacuum, closing(sink_of(settings, checkpoint)) as sink:
        vacuum.execute("lock table raw.trending_windows in share update exclusive mode")
        written_beside = threading.Thread(target=write, args=(sink,), daemon=True)
        written_beside.start()
        written_beside.join(30)
        is_done = not written_beside.is_alive()
        vacuum.rollback()  # before anything may fail: the end waits for what is begun
        written_beside.join(30)
    assert is_done
    assert written(settings)[0] == both(3)


@pytest.mark.usefixtures("small_is_full")
def test_a_new_query_begins_once_the_one_before_has_written(settings: Settings, checkpoint: Path) -> None:
    """What that wrote is deleted with the rest that the new one counts anew."""
    begin = datetime.fromtimestamp(START, UTC)
    new = TrendingSink(settings.credentials("loader"), RULES, checkpoint, whole_from=begin)
    with connect(settings.credentials("loader")) as other, closing(new) as sink:
        other.execute(LOCK_WINDOWS)
        other.execute(
            "insert into raw.trending_windows values"
            " (%s, %s, 'artist', %s, 'Can', null, 5, 5, now())",
            [begin, begin + timedelta(minutes=5), ARTIST],
        )  # fmt: skip
        writing = threading.Thread(target=write, args=(sink,), daemon=True)
        writing.start()
        waits = waiting(settings)
        other.commit()
        writing.join(30)
    assert waits
    assert written(settings)[0] == both(3)


def write(sink: TrendingSink) -> None:
    sink(batch(3), 0)
    sink.flush()


def waiting(settings: Settings) -> bool:
    """Whether somebody comes to wait for an advisory lock."""
    asked = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if query(settings, asked) != [(0,)]:
            return True
        time.sleep(0.05)
    return False


def test_an_erasure_and_a_batch_write_one_after_the_other(settings: Settings) -> None:
    def erase() -> None:
        with connect(settings.credentials("admin")) as connection:
            forget_windows(connection, settings, ["ann"])

    with connect(settings.credentials("loader")) as other:
        other.execute(LOCK_WINDOWS)
        erasing = threading.Thread(target=erase, daemon=True)
        erasing.start()
        waits = waiting(settings)
        other.rollback()
        erasing.join(30)
    assert waits
    assert not erasing.is_alive()


def test_a_few_listens_that_cant_be_written_are_written_when_they_come_again(
    settings: Settings, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trending_sink, "window_changes", lambda batch, rules: batch)
    few = SimpleNamespace(toArrow=lambda: RECENT)
    with closing(sink_of(settings, checkpoint)) as sink:
        sink(batch(3), 0)
        execute(settings, "alter table raw.trending_windows rename to away")
        with pytest.raises(DatabaseError, match="can't be written: relation .* does not exist"):
            sink(few, 1)  # type: ignore[arg-type]
        execute(settings, "alter table raw.away rename to trending_windows")
        for _ in range(2):
            sink(few, 1)  # type: ignore[arg-type]
            few.write = MagicMock()
    assert written(settings) == (both(4), [(sink.query_id, 1)])


@pytest.mark.usefixtures("small_is_full")
def test_a_few_listens_wait_for_the_batch_before(settings: Settings, checkpoint: Path) -> None:
    """One that could not be written isn't passed over, were the query started anew with the same sink."""
    stop = threading.Event()
    stop.set()
    sink = sink_of(settings.model_copy(update={"postgres_port": 1}), checkpoint, stop)
    sink(batch(3), 0)
    sink._are_few = True
    with pytest.raises(DatabaseError, match="trending windows can't be written"):
        sink(SimpleNamespace(toArrow=lambda: RECENT), 1)  # type: ignore[arg-type]
    with pytest.raises(DatabaseError, match="trending windows can't be written"):
        sink.close()
    assert (KeptBatch(checkpoint / "kept.arrow").read() or [None, None])[1] == 0


@pytest.mark.usefixtures("small_is_full")
def test_what_is_begun_is_written_at_the_end(settings: Settings, checkpoint: Path) -> None:
    """Also where that fails: it is told."""
    with closing(sink_of(settings, checkpoint)) as sink:
        sink(batch(3), 0)
    assert written(settings)[0] == both(3)
    execute(settings, "drop table raw.trending_windows")
    sink = sink_of(settings, checkpoint)
    sink(batch(2), 1)
    with pytest.raises(DatabaseError, match="can't be written: relation .* does not exist"):
        sink.close()


@pytest.mark.usefixtures("small_is_full")
def test_a_batch_that_cant_be_written_is_told_and_written_later(settings: Settings, checkpoint: Path) -> None:
    stop = threading.Event()
    away = settings.model_copy(update={"postgres_port": 1})
    sink = sink_of(away, checkpoint, stop)
    sink(batch(3), 0)
    time.sleep(0.3)
    assert not sink.has_failed, "it doesn't wait for a database that is away"
    stop.set()
    with pytest.raises(DatabaseError, match="trending windows can't be written"):
        sink(batch(2), 1)
    assert sink.has_failed
    with pytest.raises(DatabaseError, match="trending windows can't be written"):
        sink.close()
    with closing(sink_of(settings, checkpoint)) as later:
        later.catch_up()
    assert written(settings) == (both(3), [(sink.query_id, 0)])


@pytest.mark.parametrize("has_a_number", [True, False])
def test_a_damaged_file_is_told(settings: Settings, checkpoint: Path, has_a_number: bool) -> None:
    kept = checkpoint / "kept.arrow"
    KeptBatch(kept).keep(rows(3), 7)
    if has_a_number:
        kept.write_bytes(kept.read_bytes()[:100])
    else:
        with pa.ipc.new_file(kept, SCHEMA) as writer:
            writer.write_table(rows(3))
    with closing(sink_of(settings, checkpoint)) as sink, pytest.raises(StreamError, match=rf"{kept} is damaged"):
        sink.catch_up()


def test_a_file_that_cant_be_read_is_told(settings: Settings, checkpoint: Path) -> None:
    (checkpoint / "kept.arrow").mkdir()
    with closing(sink_of(settings, checkpoint)) as sink, pytest.raises(StreamError, match="can't be read: Is a direc"):
        sink.catch_up()
