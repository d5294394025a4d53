"""The statements of the sink: rows meet rows in the table as they do in a batch, and offsets are held."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from helpers import listen, query

from music_pulse.database import connect
from music_pulse.settings import Settings
from streaming.client import JsonSerializer, Record
from streaming.events import EventBuilder
from streaming.listen_rows import ListenReader, StreamRow
from streaming.listens_table import Source, lock_offsets, move_offsets, new_load_id, next_offsets, write_load
from streaming.tables import create_stream_tables

START = 1_700_000_000
SOURCE = Source("cluster/topic", "listens")


@pytest.fixture(scope="module")
def tables(module_warehouse: Settings) -> Settings:
    with connect(module_warehouse.credentials("loader")) as connection:
        create_stream_tables(connection)
    return module_warehouse


def rows_of(listens: Sequence[dict[str, Any]]) -> list[StreamRow]:
    """Return one row for each, not united."""
    built, refused = EventBuilder().build(listens, now=START + 1_000)
    assert refused == []
    reader = ListenReader(JsonSerializer(), 1_000_000)
    serialize = JsonSerializer().serialize
    records = [
        Record("listens", 0, offset, START * 1000, b"ann", serialize(event), []) for offset, event in enumerate(built)
    ]
    return [row for record in records for row in reader.read([record]).rows]


def test_rows_of_a_listen_come_to_the_same_in_any_order_in_one_batch_and_in_several(tables: Settings) -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"ms": 1},
        {"ms": 2},
        {"ms": 2, "album": "Album"},
        {"ms": 2, "album": "Album", "recording_msid": "00000000-0000-0000-0000-000000000002"},
        {"ms": 2, "album": "Album", "recording_msid": "00000000-0000-0000-0000-000000000001"},
        {"album": "Album", "recording_msid": "00000000-0000-0000-0000-000000000001"},
        {"ms": 2, "album": "Album", "recording_msid": "00000000-0000-0000-0000-000000000001", "inserted_at": START},
    ]
    rows = rows_of([listen(START, **variant) for variant in variants])
    best = min(rows, key=lambda row: row.preference)
    for first, second in itertools.permutations(rows, 2):
        winner = min(first, second, key=lambda row: row.preference)
        with connect(tables.credentials("loader")) as connection:
            connection.execute("truncate raw.stream_listens")
            assert write_load(connection, [first], events=1, refused=0) == 1
            assert write_load(connection, [second], events=1, refused=0) == (winner is second)
            found = connection.execute("select payload_hash, kafka_offset from raw.stream_listens").fetchall()
        assert [(hashed.hex, offset) for hashed, offset in found] == [(winner.payload_hash, first.kafka_offset)]
    assert (best.duration_ms, best.album, best.recording_msid) == (2, "Album", "0" * 31 + "1")


def test_text_of_any_kind_arrives_as_it_was(tables: Settings) -> None:
    ugly = "tab\there, \\N and \\., \n new line, 'quote', \"more\", ünïcödé \U0001f3b5"
    rows = rows_of([listen(START + 1, ugly, ugly, user=ugly, album=ugly)])
    with connect(tables.credentials("loader")) as connection:
        write_load(connection, rows, events=1, refused=0)
    chosen = "select artist_name, track_name, album, user_name from raw.stream_listens where listened_at = %s"
    when = "to_timestamp(1700000001)"
    assert query(tables, chosen.replace("%s", when)) == [(ugly, ugly, ugly, ugly)]


def test_an_empty_load_is_a_load(tables: Settings) -> None:
    with connect(tables.credentials("loader")) as connection:
        assert write_load(connection, [], events=3, refused=3) == 0
    assert query(tables, "select events, listens, refused from raw.stream_loads where events = 3") == [(3, 0, 3)]


def test_offsets_are_held_until_the_commit_and_kept_by_topic(tables: Settings) -> None:
    other_topic = Source("cluster/another", "listens")
    with connect(tables.credentials("loader")) as first:
        assert lock_offsets(first, SOURCE, [2, 0, 2]) == {0: 0, 2: 0}
        move_offsets(first, SOURCE, {0: 7, 2: 9})
    with connect(tables.credentials("loader")) as first:
        assert lock_offsets(first, SOURCE, [0]) == {0: 7}
        with connect(tables.credentials("loader"), options="-c lock_timeout=200") as second:
            assert lock_offsets(second, SOURCE, [2]) == {2: 9}
            assert lock_offsets(second, other_topic, [0]) == {0: 0}
            with pytest.raises(psycopg.errors.LockNotAvailable):
                lock_offsets(second, SOURCE, [0])
    with connect(tables.credentials("loader")) as connection:
        assert next_offsets(connection, SOURCE) == {0: 7, 2: 9}
        assert next_offsets(connection, other_topic) == {}


def test_load_ids_sort_by_time_and_differ() -> None:
    made = [new_load_id() for _ in range(1_000)]
    assert len(set(made)) == 1_000
    assert [name[:23] for name in made] == sorted(name[:23] for name in made)
