"""Reading events by kafka-python: the default, for tens of thousands of events a second at most."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from streaming.client.backoff import delays
from streaming.client.config import KafkaConfig
from streaming.client.errors import reason_of, translated
from streaming.client.event_consumer import CommitStrategy, EventConsumer, OnPartitions, StartOffsets
from streaming.client.library_logs import keep_quiet
from streaming.client.metrics import StreamMetrics
from streaming.client.records import Batch, Partition, Record

_OVERTAKEN = (
    kafka_errors.CommitFailedError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.UnknownMemberIdError,
)


class Consumer(EventConsumer):
    """A consumer on kafka-python; see `EventConsumer`.

    `start_offsets`, `on_assigned` and `on_revoked` are called in a thread of kafka-python while `batches` waits.
    """

    def __init__(
        self,
        config: KafkaConfig,
        topics: Sequence[str],
        group: str,
        *,
        commit: CommitStrategy = CommitStrategy.EACH_BATCH,
        start_offsets: StartOffsets | None = None,
        max_records: int = 1_000,
        max_wait: float = 0.5,
        from_latest: bool = False,
        session_timeout: float = 15.0,
        on_assigned: OnPartitions | None = None,
        on_revoked: OnPartitions | None = None,
        metrics: StreamMetrics | None = None,
    ) -> None:
        super().__init__(
            config,
            topics,
            group,
            commit=commit,
            start_offsets=start_offsets,
            max_records=max_records,
            max_wait=max_wait,
            from_latest=from_latest,
            session_timeout=session_timeout,
            on_assigned=on_assigned,
            on_revoked=on_revoked,
            metrics=metrics,
        )
        keep_quiet()
        try:
            self._client = KafkaConsumer(
                **config.kafka_python(),
                group_id=group,
                enable_auto_commit=False,
                auto_offset_reset="latest" if from_latest else "earliest",
                isolation_level="read_committed",
                partition_assignment_strategy=[CooperativeStickyAssignor],
                session_timeout_ms=int(session_timeout * 1000),
                heartbeat_interval_ms=int(min(3.0, session_timeout / 5) * 1000),
                max_poll_records=max_records,
                max_partition_fetch_bytes=4 * config.max_event_bytes,
                check_crcs=False,  # as librdkafka does; in Python it is half of all work
            )
            self._client.subscribe(self.topics, listener=_Listener(self))
        except kafka_errors.KafkaError as error:
            raise translated(error, f"connecting a consumer to {config.bootstrap}") from error

    def close(self) -> None:
        """See `EventConsumer.close`."""
        self._client.close(autocommit=False, timeout_ms=int(self.config.connect_timeout * 1000))

    def _poll(self) -> Batch:
        # kafka-python 3.0.12 forgets a join that ends while nobody polls, if new metadata was its reason: then the
        # member has no partitions and sends no heartbeats any more, for ever.
        coordinator = self._client._coordinator
        if coordinator.rejoining and not coordinator.need_rejoin():
            coordinator.request_rejoin()
        try:
            by_partition = self._client.poll(int(self._max_wait * 1000))
        except kafka_errors.KafkaError as error:
            if error.__cause__ is not None:  # what a callback of ours, or the caller's, raised
                raise error.__cause__ from None
            raise translated(error, f"reading {', '.join(self.topics)}") from error
        return _PolledBatch([found for found_together in by_partition.values() for found in found_together])

    def _commit_read(self) -> None:
        self._commit_sync(None)

    def _finish_commits(self) -> None:
        """Nothing to wait for: each was answered."""

    def _commit_offsets(self, offsets: Mapping[Partition, int]) -> None:
        self._commit_sync(
            {TopicPartition(*partition): OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()}
        )

    def _commit_sync(self, offsets: dict[Any, Any] | None) -> None:
        began = time.monotonic()
        deadline = began + self.config.delivery_timeout
        for delay in delays():
            try:
                self._client.commit(offsets, timeout_ms=max(1, int((deadline - time.monotonic()) * 1000)))
                return
            except _OVERTAKEN as error:
                self._overtaken(reason_of(error))
                return
            except kafka_errors.KafkaError as error:
                if not error.retriable or time.monotonic() + delay > deadline:
                    raise self._not_committed(reason_of(error), began) from error
                time.sleep(delay)

    def _tell_read(self) -> None:
        self._client.commit_async()

    def _place(self, partitions: Sequence[Partition]) -> None:
        """Go to the offsets that the sink keeps."""
        if self._start_offsets is None:
            return
        starts = self._start_offsets(partitions)
        for partition in partitions:
            if partition in starts:
                self._client.seek(TopicPartition(*partition), starts[partition])
            elif self._from_latest:
                self._client.seek_to_end(TopicPartition(*partition))
            else:
                self._client.seek_to_beginning(TopicPartition(*partition))


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Passes kafka-python's calls on."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        partitions = [Partition(*partition) for partition in assigned]
        self._consumer._place(partitions)
        self._consumer._assigned(partitions)

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        self._consumer._revoked([Partition(*partition) for partition in revoked])

    def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        self._consumer._revoked([Partition(*partition) for partition in lost], "lost")


class _PolledBatch:
    """A batch of kafka-python's records."""

    def __init__(self, found: list[Any]) -> None:
        self._found = found

    def __len__(self) -> int:
        return len(self._found)

    def records(self) -> list[Record]:
        return list(map(as_record, self._found))

    def values(self) -> list[bytes | None]:
        return [one.value for one in self._found]

    def next_offsets(self) -> Mapping[Partition, int]:
        return {Partition(one.topic, one.partition): one.offset + 1 for one in self._found}


def as_record(found: Any) -> Record:
    """Return ours for a record of kafka-python."""
    return Record(
        found.topic, found.partition, found.offset, found.timestamp, found.key, found.value, list(found.headers)
    )
