"""Reading events by confluent-kafka, in batches: hundreds of thousands a second."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka import Consumer as ConfluentConsumer

from streaming.client.backoff import delays
from streaming.client.config import KafkaConfig
from streaming.client.errors import reason_of, translated
from streaming.client.event_consumer import CommitStrategy, EventConsumer, OnPartitions, StartOffsets
from streaming.client.library_logs import LibrdkafkaLog
from streaming.client.metrics import StreamMetrics
from streaming.client.records import Batch, Partition, Record

_COMMIT_SECONDS = 0.02
_OVERTAKEN = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError._ASSIGNMENT_LOST,
    }
)
_PASSING = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._WAIT_COORD,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
    }
)


class BulkConsumer(EventConsumer):
    """A consumer on confluent-kafka (librdkafka); see `EventConsumer`.

    A batch is returned as soon as it is full, or `max_wait` seconds after it was asked for.
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
        options: dict[str, Any] = {
            **config.confluent(),
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "on_commit": self._committed,
            "auto.offset.reset": "latest" if from_latest else "earliest",
            "isolation.level": "read_committed",
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": int(session_timeout * 1000),
            "heartbeat.interval.ms": int(min(3.0, session_timeout / 5) * 1000),
            "max.partition.fetch.bytes": 4 * config.max_event_bytes,
            "fetch.queue.backoff.ms": 5,  # its default, a second, leaves a quick reader without events
            "queued.max.messages.kbytes": max(65_536, 8 * config.max_event_bytes // 1024),
        }
        self._to_commit: list[TopicPartition] = []
        self._sent: list[TopicPartition] = []
        self._is_committing = False
        self._sent_at = 0.0
        self._failing: tuple[float, KafkaError] | None = None
        """Since when commits fail, and how the last one did."""
        self._client = ConfluentConsumer(options, logger=LibrdkafkaLog())
        self._client.subscribe(
            self.topics, on_assign=self._came, on_revoke=self._went, on_lost=lambda _, lost: self._left(lost, "lost")
        )

    def close(self) -> None:
        """See `EventConsumer.close`."""
        self._client.close()

    def _poll(self) -> Batch:
        self._send_commit()
        try:
            messages = self._client.consume(self._max_records, self._max_wait)
        except KafkaException as error:
            raise translated(error, f"reading {', '.join(self.topics)}") from error
        if self._failing is not None and time.monotonic() - self._failing[0] > self.config.delivery_timeout:
            raise self._not_committed(reason_of(self._failing[1]), self._failing[0])
        if any(map(Message.error, messages)):
            messages = [message for message in messages if not self._is_error(message)]
        return _MessageBatch(messages)

    def _is_error(self, message: Message) -> bool:
        """Tell whether this isn't an event but a notice; raise it if it is one that won't pass by itself."""
        error = message.error()
        if error is None:
            return False
        if error.code() == KafkaError._MAX_POLL_EXCEEDED:
            self._overtaken(reason_of(error))
        elif error.code() not in _PASSING and not error.retriable():
            raise translated(error, f"reading {message.topic() or ', '.join(self.topics)}")
        return True

    def _commit_read(self) -> None:
        """Send the commit and go on: waiting for each answer would cost a third of the speed.

        At most one is under way, and one in 20 ms; what is dealt with in the meantime goes with the next.
        """
        self._to_commit = self._read_to()
        self._send_commit()

    def _read_to(self) -> list[TopicPartition]:
        """Return where reading goes on, now: a commit that the client makes up itself may run ahead of us."""
        places = [TopicPartition(*partition) for partition in self._held]
        return [place for place in self._client.position(places) if place.offset >= 0]

    def _send_commit(self) -> None:
        now = time.monotonic()
        if self._to_commit and not self._is_committing and now - self._sent_at >= _COMMIT_SECONDS:
            # What went to another member meanwhile is its to commit.
            self._sent = [place for place in self._to_commit if Partition(place.topic, place.partition) in self._held]
            self._to_commit = []
            if self._sent:
                self._is_committing, self._sent_at = True, now
                self._client.commit(offsets=self._sent, asynchronous=True)

    def _committed(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        """Hear what became of a commit; called from within `consume` and `close`."""
        self._is_committing = False
        if error is None or error.code() in _OVERTAKEN or self._commit is not CommitStrategy.EACH_BATCH:
            self._failing = None
            if error is not None:
                self._overtaken(reason_of(error))
            return
        self._to_commit = self._to_commit or self._sent
        self._failing = (self._failing[0] if self._failing else time.monotonic(), error)

    def _finish_commits(self) -> None:
        if self._to_commit or self._is_committing:
            self._commit_sync(self._to_commit or self._sent)

    def _commit_offsets(self, offsets: Mapping[Partition, int]) -> None:
        self._commit_sync([TopicPartition(*place, offset) for place, offset in offsets.items()])

    def _commit_sync(self, offsets: list[TopicPartition]) -> None:
        began = time.monotonic()
        deadline = began + self.config.delivery_timeout
        for delay in delays():
            try:
                self._client.commit(offsets=offsets, asynchronous=False)
                return
            except KafkaException as error:
                cause = error.args[0]
                if cause.code() in _OVERTAKEN:
                    self._overtaken(reason_of(cause))
                    return
                if time.monotonic() + delay > deadline or not (cause.code() in _PASSING or cause.retriable()):
                    raise self._not_committed(reason_of(cause), began) from error
                time.sleep(delay)

    def _tell_read(self) -> None:
        read_to = self._read_to()
        if read_to:
            self._client.commit(offsets=read_to, asynchronous=True)

    # Rebalances; called from within `consume` and `close`

    def _came(self, client: ConfluentConsumer, assigned: list[TopicPartition]) -> None:
        partitions = [Partition(place.topic, place.partition) for place in assigned]
        if self._start_offsets is not None:
            starts = self._start_offsets(partitions)
            absent = OFFSET_END if self._from_latest else OFFSET_BEGINNING
            client.incremental_assign([TopicPartition(*place, starts.get(place, absent)) for place in partitions])
        self._assigned(partitions)

    def _went(self, client: ConfluentConsumer, revoked: list[TopicPartition]) -> None:
        if self._to_commit:  # the last chance, sent before we give up the partitions: who comes next starts from there
            client.commit(offsets=self._to_commit, asynchronous=True)
            self._to_commit = []
        self._left(revoked, "revoked")

    def _left(self, places: list[TopicPartition], kind: str) -> None:
        self._revoked([Partition(place.topic, place.partition) for place in places], kind)


class _MessageBatch:
    """A batch of messages that are taken apart when asked for."""

    def __init__(self, messages: list[Message]) -> None:
        self._messages = messages

    def __len__(self) -> int:
        return len(self._messages)

    def records(self) -> list[Record]:
        return [
            Record(
                message.topic(),  # type: ignore[arg-type]
                message.partition(),  # type: ignore[arg-type]
                message.offset(),  # type: ignore[arg-type]
                message.timestamp()[1],
                message.key(),
                message.value(),
                message.headers() or [],  # type: ignore[arg-type]
            )
            for message in self._messages
        ]

    def values(self) -> list[bytes | None]:
        return list(map(Message.value, self._messages))

    def next_offsets(self) -> Mapping[Partition, int]:
        return {
            Partition(message.topic(), message.partition()): message.offset() + 1  # type: ignore[arg-type,operator]
            for message in self._messages
        }
