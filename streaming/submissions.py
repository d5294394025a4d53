"""What people submit -> the topic or, where there is no broker, raw.stream_listens; several submissions at once.

Each submission is taken whole or not at all: one transaction, of Kafka or of Postgres, holds all that were there when
it began. Only when it is committed is anything acknowledged. A repeat changes nothing: in the table it is the same
row, and behind the topic everybody takes each `listen_id` once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import psycopg

from music_pulse.blocklist import Blocklist, read_blocklist
from music_pulse.database import connect, one_line
from music_pulse.errors import DatabaseError, InputError, PulseError
from music_pulse.settings import Settings
from streaming.client import (
    BulkProducer,
    BytesSerializer,
    KafkaConfig,
    Record,
    SerializationError,
    StreamError,
    StreamMetrics,
    check,
)
from streaming.events import EventBuilder, event_key, event_serializer
from streaming.listen_rows import ListenReader
from streaming.listens_table import write_load

log = logging.getLogger(__name__)

MAX_EVENT_BYTES = 990_000
"""Of an event's value: what a broker takes, less room for its key."""

NO_TOPIC = ""
"""What stands for the topic of a listen that came without a broker; its partition is -1."""


class Submitted(NamedTuple):
    """Listens in ListenBrainz' form that `user_name` sent."""

    user_name: str
    listens: Sequence[dict[str, Any]]


class _Event(NamedTuple):
    key: bytes
    value: bytes


class SubmissionStore:
    """Stores submissions; for one thread. `find_broker` is asked until it names one: from then on all go there.

    The login of role loader reads who was forgotten and writes the table.
    """

    def __init__(
        self,
        settings: Settings,
        find_broker: Callable[[], KafkaConfig | None],
        *,
        transactional_id: str,
        metrics: StreamMetrics | None = None,
    ) -> None:
        self._settings = settings
        self._find_broker = find_broker
        self._transactional_id = transactional_id
        self._metrics = metrics
        self._kafka: KafkaConfig | None = None
        self._producer: BulkProducer[bytes] | None = None
        self._connection: psycopg.Connection | None = None
        self._builder = EventBuilder()
        self._serializer = event_serializer(settings)

    def store(self, submissions: Sequence[Submitted]) -> list[PulseError | None]:
        """Store all; return of each submission why it can't be taken, or None: then it is safe.

        Raises `StreamError` or `DatabaseError` if nothing was stored: it may be tried again.
        """
        self._kafka = self._kafka or self._find_broker()
        try:
            with self._transaction() as connection:
                connection.execute("lock table raw.stream_listens in row exclusive mode")  # an erasure waits for us
                blocklist = read_blocklist(connection, self._settings)
                found = [self._encoded(submission, blocklist) for submission in submissions]
                events = [event for encoded in found if isinstance(encoded, list) for event in encoded]
                if self._kafka is None:
                    self._write(connection, events)
            if self._kafka is not None:
                self._send(self._kafka, events)
        except psycopg.Error as error:
            self._disconnect()
            raise DatabaseError(f"listens can't be stored: {one_line(error)}") from error
        return [encoded if isinstance(encoded, PulseError) else None for encoded in found]

    def check(self) -> str:
        """Say where listens go; raises `StreamError` or `DatabaseError` if they can't just now. For any thread."""
        with connect(self._settings.credentials("loader")):
            pass  # with a broker, too, it is asked who was forgotten
        kafka = self._kafka
        if kafka is None:
            return "the database: no broker so far"
        check(kafka, [self._settings.kafka_topic])
        return f"topic {self._settings.kafka_topic}"

    def close(self) -> None:
        """Close what is open."""
        self._drop_producer()
        self._disconnect()

    def _encoded(self, submitted: Submitted, blocklist: Blocklist) -> list[_Event] | PulseError:
        if submitted.user_name in blocklist:
            return InputError("this person was forgotten here, and is kept out")
        try:
            events, refused = self._builder.build(submitted.listens, now=time.time(), user_name=submitted.user_name)
            if refused:
                return InputError(refused[0].reason)
            encoded = [_Event(event_key(event), self._serializer.serialize(event)) for event in events]
        except (InputError, SerializationError) as error:
            return error if isinstance(error, InputError) else InputError(str(error))
        if any(len(event.value) > MAX_EVENT_BYTES for event in encoded):
            return InputError(f"a listen is larger than {MAX_EVENT_BYTES:,} bytes")
        return encoded

    # Without a broker

    def _write(self, connection: psycopg.Connection, events: Sequence[_Event]) -> None:
        """Write what the sink would; a batch that changes nothing leaves no trace."""
        reader = ListenReader(self._serializer, MAX_EVENT_BYTES)
        reading = reader.read(_records(events))
        if reading.refused:
            raise DatabaseError(f"an event that was just made isn't one: {reading.refused[0].reason}")
        if not write_load(connection, reading.rows, events=len(events), refused=0):
            raise psycopg.Rollback

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection]:
        if self._connection is not None:
            try:
                self._connection.execute("select 1")
            except psycopg.OperationalError:  # the database was restarted meanwhile
                self._disconnect()
        if self._connection is None:
            self._connection = connect(self._settings.credentials("loader"), autocommit=True)
        with self._connection.transaction():
            yield self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # With a broker

    def _send(self, kafka: KafkaConfig, events: Sequence[_Event]) -> None:
        if not events:
            return
        try:
            if self._producer is None:
                self._producer = BulkProducer(
                    kafka,
                    self._settings.kafka_topic,
                    BytesSerializer(),
                    transactional_id=self._transactional_id,
                    metrics=self._metrics,
                )
            with self._producer.transaction():
                self._producer.send_many([event.key for event in events], [event.value for event in events])
        except StreamError:
            # What went wrong may have ended the producer for good: the next batch makes a new one.
            self._drop_producer()
            raise

    def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(StreamError):
                producer.close(1.0)


def _records(events: Iterable[_Event]) -> list[Record]:
    now_ms = int(time.time() * 1000)
    return [Record(NO_TOPIC, -1, place, now_ms, *event, []) for place, event in enumerate(events)]
