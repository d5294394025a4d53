"""The raw listens sink: Kafka `listens` -> raw.stream_listens, each listen once, whatever is killed in between.

A batch is one transaction: its listens, its row in raw.stream_loads, and in raw.stream_offsets where reading goes on.
Kafka is never asked how far we are. The transaction locks the offsets of its partitions and passes over what lies
below them: so a batch that is read again, by us after a crash or by another sink that took over, changes nothing.
What can't be used is a dead letter before its offset is committed; after a crash between the two it is one twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple, TypeVar

import psycopg

from music_pulse.blocklist import Blocklist, read_blocklist
from music_pulse.database import connect, one_line
from music_pulse.errors import DatabaseError
from music_pulse.settings import Settings
from streaming.archive import Archiver, ListensArchive, day_of
from streaming.client import (
    BulkConsumer,
    CommitStrategy,
    DeadLetters,
    KafkaConfig,
    Partition,
    Record,
    StreamMetrics,
    ensure_topics,
    listen_topics,
)
from streaming.client.backoff import delays
from streaming.events import event_serializer
from streaming.listen_rows import ListenReader, Refusal
from streaming.listens_table import Source, lock_offsets, move_offsets, next_offsets, write_load
from streaming.tables import create_stream_tables
from streaming.topics import topic_incarnation

log = logging.getLogger(__name__)

T = TypeVar("T")

BATCH_RECORDS = 2_000
BATCH_SECONDS = 1.0
"""At most one load a second, however slowly events come: dbt looks at each."""

_SESSION_SECONDS = 10.0
_LONGEST_DELAY = 5.0
_KEPT_KEY = 1_000


class Landed(NamedTuple):
    """What one transaction did: events that were new to it, listens added or bettered, events refused."""

    events: int
    listens: int
    refused: int


Progress = Callable[[Landed], None]


def sink_group(settings: Settings) -> str:
    """Return the consumer group of the sink: one a database, since each wants all events."""
    return f"{settings.kafka_group}.{settings.kafka_topic}.sink.{settings.postgres_dbname}"


def run_listens_sink(
    settings: Settings,
    *,
    bootstrap: str | None = None,
    stop: threading.Event,
    progress: Progress | None = None,
    metrics: StreamMetrics | None = None,
) -> None:
    """Land every event of the topic until `stop` is set; then finish the batch in hand and the archive.

    `bootstrap` is the embedded broker's address, used where the settings name no other. A database that goes away is
    waited for; a broker that doesn't answer, too, for `kafka_delivery_timeout` seconds. Raises `StreamError`, and
    `DatabaseError` for a database that can't be used from the start.
    """
    config = KafkaConfig.from_settings(settings, bootstrap)
    topic = settings.kafka_topic
    ensure_topics(config, listen_topics(config, topic, settings.kafka_partitions))
    login = settings.credentials("loader")
    with connect(login, autocommit=True) as connection:
        create_stream_tables(connection)
    reader = ListenReader(event_serializer(settings), config.max_event_bytes)
    archive = ListensArchive(login, settings.archive_dir / "listens")
    with (
        Archiver(archive) as archiver,
        DeadLetters(config, topic, metrics=metrics) as dead_letters,
        closing(ListensSink(settings, config, topic, reader, dead_letters, stop)) as sink,
        BulkConsumer(
            config,
            [topic],
            sink_group(settings),
            commit=CommitStrategy.EXTERNAL,
            start_offsets=sink.start_offsets,
            max_records=BATCH_RECORDS,
            max_wait=BATCH_SECONDS,
            session_timeout=_SESSION_SECONDS,
            metrics=metrics,
        ) as consumer,
    ):
        for batch in consumer.batches(stop):
            records = batch.records()
            landed = sink.land(records)
            archiver.touch(sink.take_days())
            if landed is not None and metrics is not None:
                oldest = min(record.timestamp_ms for record in records) / 1000
                metrics.latency_seconds.labels(consumer.group).observe(max(0.0, time.time() - oldest))
            if landed is not None and progress is not None:
                progress(landed)


class ListensSink:
    """Lands batches of records of one topic. Not for several threads."""

    def __init__(
        self,
        settings: Settings,
        config: KafkaConfig,
        topic: str,
        reader: ListenReader,
        dead_letters: DeadLetters,
        stop: threading.Event,
    ) -> None:
        self._settings = settings
        self._login = settings.credentials("loader")
        self._config = config
        self._source = Source("", topic)
        self._reader = reader
        self._dead_letters = dead_letters
        self._stop = stop
        self._connection: psycopg.Connection | None = None
        self._set_aside: set[tuple[int, int]] = set()
        self._days: set[int] = set()

    def start_offsets(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Return where reading goes on; a partition that nothing was landed from is left out."""
        topic = self._source.topic
        self._source = Source(topic_incarnation(self._config, topic), topic)
        kept = self._keep_trying(lambda connection: next_offsets(connection, self._source)) or {}
        return {place: kept[place.number] for place in partitions if place.number in kept}

    def land(self, records: Sequence[Record]) -> Landed | None:
        """Land a batch; None if `stop` was set while the database was away: then it will be read again."""
        landed = self._keep_trying(lambda connection: self._land(connection, records))
        self._set_aside.clear()
        return landed

    def take_days(self) -> set[int]:
        """Return the days (since 1970) of which rows may have changed since this was last asked."""
        days, self._days = self._days, set()
        return days

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _land(self, connection: psycopg.Connection, records: Sequence[Record]) -> Landed:
        nexts = lock_offsets(connection, self._source, (record.partition for record in records))
        new = [record for record in records if record.offset >= nexts[record.partition]]
        if not new:
            return Landed(0, 0, 0)
        rows, refused = self._reader.read(new, self._blocklist(connection))
        self._days.update(day_of(row.listened_at) for row in rows)
        listens = write_load(connection, rows, events=len(new), refused=len(refused))
        move_offsets(connection, self._source, {record.partition: record.offset + 1 for record in new})
        self._refuse(refused)
        return Landed(len(new), listens, len(refused))

    def _blocklist(self, connection: psycopg.Connection) -> Blocklist:
        """Read who is kept out. An erasure waits for the lock: no batch that doesn't know of it comes after it."""
        connection.execute("lock table raw.stream_listens in row exclusive mode")
        return read_blocklist(connection, self._settings)

    def _refuse(self, refusals: Iterable[Refusal]) -> None:
        """Set events aside, once as long as this process lives, and wait until Kafka has them."""
        for record, reason in refusals:
            place = record.partition, record.offset
            if place not in self._set_aside:
                kept = fitting(record, self._config.max_event_bytes)
                self._dead_letters.send(kept, reason if kept is record else f"{reason}; cut")
                self._set_aside.add(place)
        self._dead_letters.flush()

    def _keep_trying(self, step: Callable[[psycopg.Connection], T]) -> T | None:
        """Do a step in a transaction until it is committed, connecting anew if need be; None once `stop` is set."""
        for delay in delays(longest=_LONGEST_DELAY):
            try:
                if self._connection is None:
                    self._connection = connect(self._login)
                with self._connection.transaction():
                    return step(self._connection)
            except (psycopg.OperationalError, psycopg.InterfaceError, DatabaseError) as error:
                log.warning("the listens sink waits for Postgres: %s", one_line(error))
                self.close()
            if self._stop.wait(delay):
                return None
        raise AssertionError("delays never end")


def fitting(record: Record, largest: int) -> Record:
    """Return what of a record the dead-letter topic can take: all of it or, of one that is too large, its beginning."""
    contents = [record.key, record.value, *(part for name, value in record.headers for part in (name.encode(), value))]
    if sum(len(content or b"") for content in contents) <= largest:
        return record
    return record._replace(key=(record.key or b"")[:_KEPT_KEY], value=(record.value or b"")[: largest // 2], headers=[])
