"""The raw tables stand from the first start, whoever comes first."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from helpers import execute, query

from extract.pipeline import create_raw_tables
from music_pulse.database import connect
from music_pulse.settings import Settings
from streaming.tables import create_stream_tables

TABLES = "select relname from pg_class where relnamespace = 'raw'::regnamespace and relkind = 'r' order by 1"


def create(settings: Settings) -> None:
    with connect(settings.credentials("loader")) as connection:
        create_raw_tables(connection)
        create_stream_tables(connection)


def test_many_may_make_the_tables_at_once(warehouse: Settings) -> None:
    standing = query(warehouse, TABLES)
    assert {("stream_listens",), ("trending_windows",), ("listens",)} <= set(standing)
    execute(warehouse, "drop table " + ", ".join(f"raw.{name}" for (name,) in standing))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(create, [warehouse] * 4))
    assert query(warehouse, TABLES) == standing


def test_what_is_missing_is_added_and_the_rest_stays(warehouse: Settings) -> None:
    create(warehouse)
    execute(warehouse, "insert into raw.stream_offsets values ('cluster', 'listens', 0, 7, now())")
    execute(warehouse, "drop table raw.trending_ledger")
    execute(warehouse, "drop index raw.stream_listens_load_id")
    create(warehouse)
    assert query(warehouse, "select next_offset from raw.stream_offsets") == [(7,)]
    assert query(warehouse, "select to_regclass('raw.trending_ledger') is not null") == [(True,)]
    assert query(warehouse, "select to_regclass('raw.stream_listens_load_id') is not null") == [(True,)]


def test_nobody_waits_for_a_writer_once_they_stand(warehouse: Settings) -> None:
    create(warehouse)
    with connect(warehouse.credentials("loader")) as writer:
        writer.execute("lock table raw.stream_listens in row exclusive mode")
        with connect(warehouse.credentials("loader"), options="-c lock_timeout=1000") as other:
            create_stream_tables(other)
