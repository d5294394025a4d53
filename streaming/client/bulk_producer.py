"""Sending events by confluent-kafka: many thousands a second, at hardly more than the client's own cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from operator import length_hint
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as ConfluentProducer

from streaming.client.backoff import delays
from streaming.client.config import KafkaConfig
from streaming.client.errors import TransactionError, reason_of, translated
from streaming.client.event_producer import EventProducer, OnDelivery, V
from streaming.client.library_logs import LibrdkafkaLog
from streaming.client.metrics import StreamMetrics
from streaming.client.rate import TokenBucket
from streaming.client.records import Delivery, Headers, Record
from streaming.client.serializers import Serializer

_CHUNK = 10_000
"""Events between two looks at what became of the earlier ones."""

_POLL_EVERY = 500
_ROOM_SECONDS = 0.005
_FATAL_REPORTS = 3


class BulkProducer(EventProducer[V]):
    """A producer on confluent-kafka (librdkafka). `max_queued` events may wait; then `send` waits, too.

    Without `on_delivery` only failures are reported, which costs nothing for each delivered event. `send_many`
    is the way to its full speed.
    """

    def __init__(
        self,
        config: KafkaConfig,
        topic: str,
        serializer: Serializer[V],
        *,
        rate: TokenBucket | None = None,
        transactional_id: str | None = None,
        on_delivery: OnDelivery | None = None,
        max_queued: int = 100_000,
        metrics: StreamMetrics | None = None,
    ) -> None:
        super().__init__(
            config,
            topic,
            serializer,
            rate=rate,
            transactional_id=transactional_id,
            on_delivery=on_delivery,
            max_queued=max_queued,
            metrics=metrics,
        )
        self._unpolled = 0
        delivery_ms = self._delivery_ms()
        options: dict[str, Any] = {
            **config.confluent(),
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 10,
            "batch.size": 1_000_000,
            "message.max.bytes": config.max_event_bytes,
            "queue.buffering.max.messages": max_queued,
            "queue.buffering.max.kbytes": max(131_072, 2 * config.max_event_bytes // 1024),
            "delivery.timeout.ms": delivery_ms,
            "partitioner": "murmur2_random",  # kafka-python's and Java's: one key, one partition, whoever sends
            "delivery.report.only.error": on_delivery is None,
            "on_delivery": self._settle,
        }
        if transactional_id is not None:
            options["transactional.id"] = transactional_id
            options["transaction.timeout.ms"] = delivery_ms
        self._client = ConfluentProducer(options, logger=LibrdkafkaLog())
        if transactional_id is not None:
            self._transact(self._client.init_transactions, "start", config.connect_timeout)

    def send_many(
        self,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps_ms: Sequence[int] | None = None,
    ) -> None:
        """See `EventProducer.send_many`."""
        if len(keys) != len(values) or (timestamps_ms is not None and len(timestamps_ms) != len(values)):
            raise ValueError("keys, values and timestamps_ms must be of one length")
        size = _CHUNK if self._rate is None else max(1, min(_CHUNK, int(self._rate.burst)))
        for start in range(0, len(values), size):
            chunk = slice(start, start + size)
            rest = iter(values[chunk])
            events = length_hint(rest)
            self._before(events)
            try:
                if timestamps_ms is None:
                    self._produce(zip(keys[chunk], rest, strict=True))
                else:
                    self._produce_at(zip(keys[chunk], rest, timestamps_ms[chunk], strict=True))
            finally:
                self._count(events - length_hint(rest))
            self._serve(self._client.poll, 0)
            self._tell_metrics()

    def forward(self, record: Record, headers: Headers) -> None:
        """Send a record on as it was read, with other headers; also one of nothing, which `send` refuses."""
        self._before(1)
        self._count(1)
        self._enqueue(record.key, record.value, headers, None)

    def _produce(self, events: Iterable[tuple[bytes | None, bytes | None]]) -> None:
        """Queue events: the loop on which the speed of the library hangs; nothing more belongs into it."""
        produce, topic = self._client.produce, self.topic
        for key, value in events:
            try:
                produce(topic, value, key)
            except (BufferError, KafkaException):
                self._enqueue(key, value, (), None)

    def _produce_at(self, events: Iterable[tuple[bytes | None, bytes | None, int]]) -> None:
        produce, topic = self._client.produce, self.topic
        for key, value, timestamp_ms in events:
            try:
                produce(topic, value, key, timestamp=timestamp_ms)
            except (BufferError, KafkaException):
                self._enqueue(key, value, (), timestamp_ms)

    @property
    def pending(self) -> int:
        """Events that were sent and neither delivered nor given up."""
        return len(self._client)

    def _enqueue(self, key: bytes | None, value: bytes | None, headers: Headers, timestamp_ms: int | None) -> None:
        last_progress = time.monotonic()
        while True:
            try:
                self._client.produce(self.topic, value, key, headers=list(headers), timestamp=timestamp_ms or 0)
                break
            except KafkaException as error:
                raise self._refused(reason_of(error)) from error
            except BufferError:
                before = self.pending
                self._serve(self._client.poll, _ROOM_SECONDS)
                if self.pending < before:
                    last_progress = time.monotonic()
                elif time.monotonic() - last_progress > self.config.delivery_timeout:
                    raise self._stuck() from None
        self._unpolled += 1
        if self._unpolled >= _POLL_EVERY or self._on_delivery is not None:
            self._unpolled = 0
            self._serve(self._client.poll, 0)

    def _settle(self, error: KafkaError | None, message: Message) -> None:
        """Note what became of an event; called from within `poll`, `flush` and their like."""
        failure = translated(error, f"delivering to {self.topic}") if error is not None else None
        if failure is not None:
            self._give_up(failure)
        latency = message.latency()
        if self._metrics is not None and latency is not None:
            self._metrics.delivery_seconds.labels(self.topic).observe(latency)
        if self._on_delivery is not None:
            partition, offset = message.partition(), message.offset()
            if failure is not None or partition is None or offset is None:
                partition, offset = -1, -1
            self._on_delivery(Delivery(self.topic, partition, offset, message.key(), failure))

    def _serve(self, wait: Callable[[float], int], seconds: float) -> None:
        """Let the client report, for at most `seconds`.

        It raises a fatal error from in here; if other reports came with it, as a SystemError that may not even say
        its cause. Then there is more to come.
        """
        deadline = time.monotonic() + seconds
        for _ in range(_FATAL_REPORTS):
            try:
                wait(max(0.0, deadline - time.monotonic()))
                return
            except (KafkaException, SystemError) as error:
                cause = error if isinstance(error, KafkaException) else error.__cause__
                if isinstance(cause, KafkaException):
                    self._first_error = self._first_error or translated(cause, f"delivering to {self.topic}")

    def _drain(self, timeout: float) -> None:
        self._serve(self._client.flush, timeout)

    def _begin(self) -> None:
        self._transact(lambda timeout: self._client.begin_transaction(), "begin", self.config.delivery_timeout)

    def _commit(self) -> None:
        self._transact(self._client.commit_transaction, "commit", self.config.delivery_timeout)

    def _abort(self) -> None:
        self._transact(self._client.abort_transaction, "abort", self.config.delivery_timeout)

    def _transact(self, step: Callable[[float], None], name: str, seconds: float) -> None:
        """Run a step of a transaction; what can be tried again is, with back-off, within `seconds`."""
        deadline = time.monotonic() + seconds
        for delay in delays():
            try:
                step(max(0.1, deadline - time.monotonic()))
                return
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() + delay > deadline:
                    told = translated(error, f"the {name} of transaction {self._transactional_id}")
                    raise told if isinstance(told, TransactionError) else TransactionError(str(told)) from error
                time.sleep(delay)

    def _close(self) -> None:
        self._client.purge()
        self._serve(self._client.flush, 0)
