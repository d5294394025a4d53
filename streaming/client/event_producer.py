"""What every producer of ours does: encode, pace, count, flush, commit. The two clients fill in how."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, Self, TypeVar

from streaming.client.config import KafkaConfig
from streaming.client.connection import check
from streaming.client.errors import DeliveryError, FencedError, SerializationError, StreamError, TransactionError
from streaming.client.metrics import StreamMetrics
from streaming.client.rate import TokenBucket
from streaming.client.records import Delivery, Headers
from streaming.client.serializers import Serializer, StringSerializer

log = logging.getLogger(__name__)

V = TypeVar("V")

OnDelivery = Callable[[Delivery], None]
"""Called once for each event, from `send`, `flush` or a thread of the client: be quick, don't raise."""


class EventProducer(ABC, Generic[V]):
    """A producer of one topic, for one thread: acks=all, idempotent, lz4; a key always goes to the same partition.

    `rate` bounds the events per second; `on_delivery` hears what became of each event; with a `transactional_id`
    everything is sent within `with producer.transaction():`. Nothing is delivered for sure before `flush` returned.
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
        max_queued: int,
        metrics: StreamMetrics | None = None,
    ) -> None:
        self.config = config
        self.topic = topic
        self._serializer = serializer
        self._rate = rate
        self._transactional_id = transactional_id
        self._on_delivery = on_delivery
        self._max_queued = max_queued
        self._metrics = metrics
        self._in_transaction = False
        self._lock = threading.RLock()  # the client's thread counts, too
        self._sent = 0
        self._failed = 0
        self._failed_since_flush = 0
        self._told_delivered = 0
        self._told_failed = 0
        self._first_error: StreamError | None = None
        check(config, [topic])

    # What callers use

    def send(
        self, key: str | bytes | None, value: V | None, headers: Headers = (), timestamp_ms: int | None = None
    ) -> None:
        """Queue one event; wait while the queue is full or the rate is used up. None is a value, too: a tombstone.

        `timestamp_ms` is in milliseconds since 1970; default: now. Raises `SerializationError`, or `DeliveryError`
        for an event that is too large or when nothing left the queue for `delivery_timeout` seconds.
        """
        encoded = None if value is None else self._serializer.serialize(value)
        name = StringSerializer().serialize(key) if isinstance(key, str) else key
        if name is None and encoded is None:
            raise SerializationError("an event needs a key or a value")
        self._before(1)
        self._count(1)
        self._enqueue(name, encoded, headers, timestamp_ms)

    @abstractmethod
    def send_many(
        self,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps_ms: Sequence[int] | None = None,
    ) -> None:
        """Queue events whose values are encoded already, in order: the quick way. Like `send` otherwise."""

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all is delivered, at most `timeout` seconds (default: `delivery_timeout`).

        Raises `DeliveryError` that says how many events, since the last flush, were not.
        """
        self._drain(self.config.delivery_timeout if timeout is None else timeout)
        self._tell_metrics()
        with self._lock:
            pending, failed, reason = self.pending, self._failed_since_flush, self._first_error
            self._failed_since_flush, self._first_error = 0, None
        if pending or failed:
            why = str(reason) if reason else "no acknowledgement came in time; is the broker up?"
            raise DeliveryError(
                f"{pending + failed} events to {self.topic} were not delivered: {why}", undelivered=pending + failed
            ) from reason

    @contextmanager
    def transaction(self) -> Iterator[Self]:
        """Send all or nothing: commit at the end of the block, abort if it raises or an event can't be delivered.

        Consumers of ours read committed events only. Raises `TransactionError`; `FencedError` if another producer has
        taken over the transactional id.
        """
        if self._transactional_id is None:
            raise TransactionError("this producer has no transactional_id: give it one")
        if self._in_transaction:
            raise TransactionError("transactions don't nest")
        self._begin()
        self._in_transaction = True
        try:
            yield self
            self.flush()
            self._commit()
        except BaseException as error:
            fenced = error.__cause__ if isinstance(error.__cause__, FencedError) else None
            try:
                self._abort()
            except FencedError as second:  # what happened to the events came of it
                fenced = second
            except StreamError as second:  # what brought us here says more
                log.debug("%s", second)
            self._failed_since_flush, self._first_error = 0, None
            if fenced is not None:
                raise fenced from error
            raise
        finally:
            self._in_transaction = False

    def close(self, timeout: float | None = None) -> None:
        """Flush, and close whatever comes of it; raises what `flush` raises."""
        try:
            self.flush(timeout)
        finally:
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close(min(1.0, self.config.delivery_timeout))
        except StreamError as lost:  # the error that ends the block is the one to see
            log.warning("%s", lost)

    @property
    @abstractmethod
    def pending(self) -> int:
        """Events that were sent and neither delivered nor given up."""

    # What the two clients do differently

    @abstractmethod
    def _enqueue(self, key: bytes | None, value: bytes | None, headers: Headers, timestamp_ms: int | None) -> None: ...

    @abstractmethod
    def _drain(self, timeout: float) -> None:
        """Wait until nothing is pending, or `timeout` seconds."""

    @abstractmethod
    def _begin(self) -> None: ...

    @abstractmethod
    def _commit(self) -> None: ...

    @abstractmethod
    def _abort(self) -> None: ...

    @abstractmethod
    def _close(self) -> None:
        """Close, giving up what is pending."""

    # Shared

    def _before(self, events: int) -> None:
        if self._transactional_id is not None and not self._in_transaction:
            raise TransactionError("a transactional producer sends within `with producer.transaction():`")
        if self._rate is not None:
            self._rate.take(events)

    def _count(self, events: int) -> None:
        self._sent += events
        if self._metrics is not None:
            self._metrics.sent.labels(self.topic).inc(events)

    def _delivery_ms(self) -> int:
        """How long an event may take. A transaction holds up its readers: a minute, should its producer die."""
        seconds = self.config.delivery_timeout
        return int(1000 * (seconds if self._transactional_id is None else min(seconds, 60.0)))

    def _give_up(self, error: StreamError) -> None:
        with self._lock:
            self._failed += 1
            self._failed_since_flush += 1
            self._first_error = self._first_error or error

    def _tell_metrics(self) -> None:
        if self._metrics is None:
            return
        pending = self.pending
        delivered = self._sent - self._failed - pending
        self._metrics.delivered.labels(self.topic).inc(max(0, delivered - self._told_delivered))
        self._told_delivered = max(delivered, self._told_delivered)
        self._metrics.failed.labels(self.topic).inc(self._failed - self._told_failed)
        self._told_failed = self._failed
        self._metrics.queued.labels(self.topic).set(pending)

    def _refused(self, why: str) -> DeliveryError:
        """Count an event that the client didn't take; whoever sent it gets the error at once."""
        with self._lock:
            self._failed += 1
        return DeliveryError(f"an event to {self.topic} was not delivered: {why}", undelivered=1)

    def _stuck(self) -> DeliveryError:
        return DeliveryError(
            f"{self.pending} events to {self.topic} wait and none was delivered in {self.config.delivery_timeout:g} s;"
            " is the broker up?",
            undelivered=self.pending,
        )
