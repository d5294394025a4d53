"""The raw listens sink against a real broker and a real Postgres: every event once, whatever order or shape."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from helpers import MakeWarehouse, listen, query
from stream_reference import assert_loads_add_up, expected_rows, landed_rows, read_topic
from streams import unique

from music_pulse.embedded.broker import Endpoint
from music_pulse.settings import Settings
from streaming import sinks
from streaming.client import (
    BulkProducer,
    BytesSerializer,
    JsonSerializer,
    KafkaConfig,
    Record,
    Topic,
    dead_letter_topic,
    ensure_topics,
    listen_topics,
)
from streaming.client.dead_letters import Origin
from streaming.events import EventBuilder, event_key
from streaming.sinks import Landed, fitting, run_listens_sink

START = 1_700_000_000

Sending = tuple[bytes | None, bytes | None]
"""Key and value."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "BATCH_SECONDS", 0.1)


@pytest.fixture
def settings(make_warehouse: MakeWarehouse, tmp_path: Path, broker: Endpoint) -> Settings:
    """A database, a topic of three partitions and an archive folder for one test."""
    made = make_warehouse(kafka_topic=unique("listens"), archive_dir=tmp_path, kafka_bootstrap=broker.bootstrap)
    config = KafkaConfig.from_settings(made)
    ensure_topics(config, listen_topics(config, made.kafka_topic, 3))
    return made


def events(listens: Sequence[dict[str, Any]]) -> list[Sending]:
    built, refused = EventBuilder().build(listens, now=time.time())
    assert refused == []
    return [(event_key(event), JsonSerializer().serialize(event)) for event in built]


def many(count: int, rng: random.Random) -> list[dict[str, Any]]:
    """Return listens of which some are sent again, in other words and out of order."""
    found = []
    for number in range(count):
        user = rng.choice(["ann", "bob", "cleo", "dan", "eve"])
        second = START + rng.randrange(count // 2) - rng.choice([0, 0, 86_400 * 3])
        found.append(
            listen(
                second, f"Track {number % 7}", f"Artist {number % 3}", user=user,
                album=rng.choice([None, "Album"]), ms=rng.choice([None, 180_000, 200_000]),
            )
        )  # fmt: skip
    return found


def send(settings: Settings, sendings: Sequence[Sending], largest: int = 1_000_000) -> None:
    config = replace(KafkaConfig.from_settings(settings), max_event_bytes=largest)
    with BulkProducer(config, settings.kafka_topic, BytesSerializer()) as producer:
        producer.send_many(*map(list, zip(*sendings, strict=True)))


@contextmanager
def running_sink(settings: Settings, progress: Callable[[Landed], None] | None = None) -> Iterator[threading.Event]:
    """Run the sink in a thread; what it raises is raised at the end."""
    stop = threading.Event()
    failures: list[Exception] = []

    def run() -> None:
        try:
            run_listens_sink(settings, stop=stop, progress=progress)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


def wait_for(settings: Settings, events: int) -> None:
    """Wait until so many events are landed."""
    deadline = time.monotonic() + 60
    counted: Any = None
    while time.monotonic() < deadline:
        if query(settings, "select to_regclass('raw.stream_loads') is not null") == [(True,)]:
            [(counted,)] = query(settings, "select coalesce(sum(events), 0)::bigint from raw.stream_loads")
            if counted >= events:
                return
        time.sleep(0.05)
    raise AssertionError(f"{counted} of {events} events were landed")


def land(settings: Settings, events: int) -> None:
    """Run the sink until it has landed so many events in all."""
    with running_sink(settings):
        wait_for(settings, events)


def records_of(settings: Settings) -> list[Record]:
    return read_topic(KafkaConfig.from_settings(settings), settings.kafka_topic)


def dead_letters_of(settings: Settings) -> list[Record]:
    return read_topic(KafkaConfig.from_settings(settings), dead_letter_topic(settings.kafka_topic))


def archived(settings: Settings) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    files = sorted((settings.archive_dir / "listens").glob("day=*/listens.parquet"))
    rows = [row for path in files for row in pq.ParquetFile(path).read().to_pylist()]
    return sorted(rows, key=lambda row: row["listen_id"])


def table(settings: Settings) -> list[dict[str, Any]]:
    columns = [name for (name,) in query(settings, COLUMNS_OF_TABLE)]
    rows = [dict(zip(columns, row, strict=True)) for row in query(settings, "select * from raw.stream_listens")]
    uuids = [name for name in columns if name.endswith(("_id", "_msid", "_mbid", "_hash")) and name != "load_id"]
    for row in rows:
        row.update({name: row[name] and str(row[name]) for name in uuids})
    return sorted(rows, key=lambda row: row["listen_id"])


COLUMNS_OF_TABLE = (
    "select column_name from information_schema.columns"
    " where table_schema = 'raw' and table_name = 'stream_listens' order by ordinal_position"
)


def test_duplicates_in_any_order_are_one_row_each_that_says_most(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "BATCH_RECORDS", 100)
    send(settings, events(many(1_000, random.Random(1))))
    land(settings, 1_000)
    expected = expected_rows(records_of(settings))
    assert 300 < len(expected) < 1_000
    assert landed_rows(settings) == expected
    assert_loads_add_up(settings, events=1_000, refused=0)
    assert archived(settings) == table(settings)


def test_a_later_event_that_says_more_moves_the_row_to_its_load_and_one_that_does_not_leaves_it(
    settings: Settings,
) -> None:
    def load_of_the_row() -> Any:
        return query(settings, "select load_id from raw.stream_listens")

    send(settings, events([listen(START, ms=180_000)]))
    land(settings, 1)
    first = load_of_the_row()
    send(settings, events([listen(START)]))
    land(settings, 2)
    assert load_of_the_row() == first
    send(settings, events([listen(START, ms=180_000, album="Album")]))
    land(settings, 3)
    assert load_of_the_row() > first
    assert query(settings, "select album, kafka_offset from raw.stream_listens") == [("Album", 0)]
    assert query(settings, "select listens from raw.stream_loads order by load_id") == [(1,), (0,), (1,)]
    assert archived(settings) == table(settings)


def test_bad_events_are_dead_letters_with_their_reasons_and_stop_nothing(settings: Settings) -> None:
    [(key, good), (_, other)] = events([listen(START), listen(START + 1)])
    assert good is not None
    foreign = good.replace(b"Track", b"Other")
    bad = [None, b"", b"\x00\xff", b"{}", b'"text"', foreign]
    send(settings, [(key, value) for value in (*bad, good)] + [(None, other)])
    land(settings, 8)
    assert landed_rows(settings) == expected_rows(records_of(settings), bad)
    assert_loads_add_up(settings, events=8, refused=6)
    found = {letter.value: Origin.of(letter.headers) for letter in dead_letters_of(settings)}
    assert found.keys() == set(bad)
    reasons = {value: origin.reason for value, origin in found.items() if origin is not None}
    assert reasons[b"\x00\xff"] == "can't be decoded"
    assert reasons[b"{}"] == "version is missing"
    assert reasons[b'"text"'] == "not a JSON object"
    assert reasons[foreign] == "listen_id is not the listen's"


def test_events_larger_than_any_may_be_are_kept_in_part(
    make_warehouse: MakeWarehouse, tmp_path: Path, broker: Endpoint
) -> None:
    settings = make_warehouse(kafka_topic=unique("huge"), archive_dir=tmp_path, kafka_bootstrap=broker.bootstrap)
    config = KafkaConfig.from_settings(settings)
    topic = Topic(settings.kafka_topic, 1, config={"max.message.bytes": "5000000"})
    ensure_topics(config, [topic, listen_topics(config, settings.kafka_topic, 1)[1]])
    good = events([listen(START)])
    largest = events([listen(START + 1, more="x" * 990_000)])
    send(settings, [(b"ann", b"x" * 3_000_000), *good, *largest, (b"ann", b"{" + b" " * 1_000_000)], 4_000_000)
    land(settings, 4)
    assert query(settings, "select count(*) from raw.stream_listens") == [(2,)]
    letters = [(letter.value or b"", Origin.of(letter.headers)) for letter in dead_letters_of(settings)]
    assert [(value[:1], origin and origin.reason) for value, origin in letters] == [
        (b"x", "larger than an event may be; cut"),
        (b"{", "larger than an event may be; cut"),
    ]


def test_what_the_dead_letter_topic_cannot_take_is_cut() -> None:
    small = Record("listens", 0, 0, 0, b"key", b"value", [("name", b"header")])
    assert fitting(small, 100) is small
    large = small._replace(headers=[("name", b"x" * 100)])
    assert fitting(large, 100) == small._replace(headers=[])
    assert fitting(small._replace(value=b"x" * 100), 100) == small._replace(value=b"x" * 50, headers=[])


def test_two_sinks_of_one_database_share_the_work_and_double_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "BATCH_RECORDS", 50)
    sendings = events(many(2_000, random.Random(2)))
    send(settings, sendings[:1_000])
    with running_sink(settings):
        wait_for(settings, 100)
        with running_sink(settings):
            send(settings, sendings[1_000:])
            wait_for(settings, 1_500)
        wait_for(settings, 2_000)
    assert landed_rows(settings) == expected_rows(records_of(settings))
    assert query(settings, "select sum(events)::integer from raw.stream_loads") == [(2_000,)]
    assert archived(settings) == table(settings)


def test_a_sink_that_was_taken_for_dead_changes_nothing_that_its_successor_wrote(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(settings, events(many(300, random.Random(3))))
    reached, go_on = threading.Event(), threading.Event()
    honest = sinks.ListensSink.land

    def land_late(self: sinks.ListensSink, records: Sequence[Record]) -> Landed | None:
        monkeypatch.setattr(sinks.ListensSink, "land", honest)
        reached.set()
        assert go_on.wait(60)
        return honest(self, records)

    monkeypatch.setattr(sinks.ListensSink, "land", land_late)
    told: list[Landed] = []
    with running_sink(settings, told.append):
        assert reached.wait(60)
        alone = settings.model_copy(update={"kafka_group": unique("other")})
        land(alone, 300)
        go_on.set()
        send(settings, events([listen(START - 10)]))
        wait_for(settings, 301)
    assert told[0] == Landed(0, 0, 0)
    assert landed_rows(settings) == expected_rows(records_of(settings))
    assert_loads_add_up(settings, events=301, refused=0)


def test_a_topic_made_anew_is_read_from_its_beginning(settings: Settings) -> None:
    send(settings, events([listen(START), listen(START + 1)]))
    land(settings, 2)
    config = KafkaConfig.from_settings(settings)
    admin = AdminClient(config.confluent())
    admin.delete_topics([settings.kafka_topic])[settings.kafka_topic].result(30)
    deadline = time.monotonic() + 30
    while settings.kafka_topic in admin.list_topics(timeout=30).topics:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ensure_topics(config, listen_topics(config, settings.kafka_topic, 3))
    send(settings, events([listen(START + 2), listen(START)]))
    land(settings, 4)
    seconds = "select extract(epoch from listened_at)::integer from raw.stream_listens order by 1"
    assert query(settings, seconds) == [(START,), (START + 1,), (START + 2,)]


def test_an_idle_sink_stops_when_told(settings: Settings) -> None:
    with running_sink(settings) as stop:
        deadline = time.monotonic() + 60
        while query(settings, "select to_regclass('raw.stream_offsets') is not null") != [(True,)]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        stop.set()
    assert query(settings, "select count(*) from raw.stream_loads") == [(0,)]
    assert archived(settings) == []
