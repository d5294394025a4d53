"""Sending events by kafka-python: the default, for everything that isn't many thousands a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from kafka import KafkaProducer
from kafka import errors as kafka_errors

from streaming.client.config import KafkaConfig
from streaming.client.errors import StreamError, TransactionError, reason_of, translated
from streaming.client.event_producer import EventProducer, OnDelivery, V
from streaming.client.library_logs import keep_quiet
from streaming.client.metrics import StreamMetrics
from streaming.client.rate import TokenBucket
from streaming.client.records import Delivery, Headers
from streaming.client.serializers import Serializer


class Producer(EventProducer[V]):
    """A producer on kafka-python. `max_queued` events may wait; then `send` waits, too.

    (kafka-python itself has no bound: a broker that is down would cost all memory.)
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
        max_queued: int = 10_000,
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
        self._changed = threading.Condition(self._lock)
        self._pending = 0
        self._is_spoilt = False
        self._client = self._connect()

    def _connect(self) -> Any:
        config, delivery_ms = self.config, self._delivery_ms()
        keep_quiet()
        try:
            client = KafkaProducer(
                **config.kafka_python(),
                acks="all",
                enable_idempotence=True,
                transactional_id=self._transactional_id,
                transaction_timeout_ms=delivery_ms,
                compression_type="lz4",
                linger_ms=5,
                batch_size=131_072,
                max_request_size=config.max_event_bytes,
                max_block_ms=int(config.connect_timeout * 1000),
                request_timeout_ms=min(30_000, max(1, delivery_ms - 5)),
                delivery_timeout_ms=delivery_ms,
            )
            if self._transactional_id is not None:
                client.init_transactions()
        except kafka_errors.KafkaError as error:
            raise translated(error, f"connecting a producer to {config.bootstrap}") from error
        return client

    def send_many(
        self,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps_ms: Sequence[int] | None = None,
    ) -> None:
        """See `EventProducer.send_many`."""
        times: Sequence[int | None] = [None] * len(values) if timestamps_ms is None else timestamps_ms
        for key, value, timestamp_ms in zip(keys, values, times, strict=True):
            self._before(1)
            self._count(1)
            self._enqueue(key, value, (), timestamp_ms)

    @property
    def pending(self) -> int:
        """Events that were sent and neither delivered nor given up."""
        return self._pending

    def _enqueue(self, key: bytes | None, value: bytes | None, headers: Headers, timestamp_ms: int | None) -> None:
        self._wait_for_room()
        # kafka-python knows no empty header; every other client reads b"" and None alike.
        pairs = [(name, b"" if content is None else content) for name, content in headers]
        try:
            future = self._client.send(self.topic, key=key, value=value, headers=pairs, timestamp_ms=timestamp_ms)
        except (kafka_errors.KafkaError, ValueError) as error:
            with self._changed:
                self._pending -= 1
            late = isinstance(error, kafka_errors.KafkaTimeoutError)
            raise self._refused("no broker answers; is it up?" if late else reason_of(error)) from error
        future.add_both(partial(self._settle, key, time.monotonic()))

    def _wait_for_room(self) -> None:
        """Take a place in the queue.

        An idempotent client of kafka-python that gave up one event gives up all later ones, too: it is replaced
        when the queue is empty.
        """
        with self._changed:
            while self._pending >= (1 if self._is_spoilt else self._max_queued):
                before = self._pending
                if not self._changed.wait(self.config.delivery_timeout) and self._pending >= before:
                    raise self._stuck()
            if self._is_spoilt:
                self._close()
                self._client = self._connect()
                self._is_spoilt = False
            self._pending += 1

    def _settle(self, key: bytes | None, began: float, result: Any) -> None:
        """Note what became of an event; runs in kafka-python's thread."""
        failure: StreamError | None = None
        if isinstance(result, Exception):
            failure = translated(result, f"delivering to {self.topic}")
        with self._changed:
            self._pending -= 1
            if failure is not None:
                self._give_up(failure)
                self._is_spoilt = self._transactional_id is None
            self._changed.notify_all()
        if self._metrics is not None:
            self._metrics.delivery_seconds.labels(self.topic).observe(time.monotonic() - began)
        if self._on_delivery is not None:
            partition, offset = (-1, -1) if failure else (result.partition, result.offset)
            self._on_delivery(Delivery(self.topic, partition, offset, key, failure))

    def _drain(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        try:
            self._client.flush(timeout)
        except kafka_errors.KafkaTimeoutError:
            return
        with self._changed:  # the last callbacks may still be running
            self._changed.wait_for(lambda: self._pending == 0, max(0.0, deadline - time.monotonic()))

    def _begin(self) -> None:
        self._transact(self._client.begin_transaction, "begin")

    def _commit(self) -> None:
        self._transact(self._client.commit_transaction, "commit")

    def _abort(self) -> None:
        self._transact(self._client.abort_transaction, "abort")

    def _transact(self, step: Callable[[], None], name: str) -> None:
        """Run a step of a transaction, which may wait for ever, for at most `delivery_timeout` seconds."""
        failures: list[Exception] = []

        def run() -> None:
            try:
                step()
            except Exception as error:
                failures.append(error)

        worker = threading.Thread(target=run, name=f"kafka-{name}", daemon=True)
        worker.start()
        worker.join(self.config.delivery_timeout)
        doing = f"the {name} of transaction {self._transactional_id}"
        if worker.is_alive():
            raise TransactionError(
                f"{doing} failed: no answer in {self.config.delivery_timeout:g} s; is the broker up?"
            )
        if failures:
            told = translated(failures[0], doing)
            raise told if isinstance(told, TransactionError) else TransactionError(str(told)) from failures[0]

    def _close(self) -> None:
        try:
            self._client.close(timeout=0 if self._pending else self.config.connect_timeout)
        except kafka_errors.KafkaTimeoutError:
            self._client._sender.force_close()  # there is no public way to give up what is pending
            self._client._sender.join(self.config.connect_timeout)
