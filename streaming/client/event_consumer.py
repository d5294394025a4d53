"""What every consumer of ours does: batches, when to commit, how to leave. The two clients fill in how."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from types import TracebackType
from typing import Self

from streaming.client.config import KafkaConfig
from streaming.client.connection import check
from streaming.client.errors import CommitError, StreamError
from streaming.client.metrics import StreamMetrics
from streaming.client.records import Batch, Partition, Record

log = logging.getLogger(__name__)

_LOOK_SECONDS = 3.0

OnPartitions = Callable[[Sequence[Partition]], None]
"""Called from within `batches` when partitions come or go; be quick: the group waits."""

StartOffsets = Callable[[Sequence[Partition]], Mapping[Partition, int]]
"""Where to go on in partitions that were just assigned; one that is left out starts at its beginning."""


class CommitStrategy(Enum):
    """Who remembers how far reading has come. Each is at least once; EXTERNAL makes a sink exactly once."""

    EACH_RECORD = "each record"
    """The group, after each single record: least to repeat, and slow."""
    EACH_BATCH = "each batch"
    """The group, after each batch."""
    EXTERNAL = "external"
    """The sink, in one transaction with its rows. The group is only told, for the lag, and never asked."""


class EventConsumer(ABC):
    """A member of a consumer group that reads committed events of `topics`, in batches.

    A batch has at most `max_records` and was waited for at most `max_wait` seconds. Partitions move cooperatively,
    and only between batches: the one in hand is always finished first, if that takes less than 5 minutes. A member
    that died is replaced after `session_timeout` seconds.

    With `CommitStrategy.EXTERNAL`, `start_offsets` says where to go on. A member that was stuck and replaced may
    still finish its batch: the sink's transaction must check that the offsets it moves are the ones it started from.
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
        if (commit is CommitStrategy.EXTERNAL) != (start_offsets is not None):
            raise ValueError("start_offsets belong to CommitStrategy.EXTERNAL, and it to them")
        self.config = config
        self.topics = list(topics)
        self.group = group
        self._commit = commit
        self._start_offsets = start_offsets
        self._max_records = max_records
        self._max_wait = max_wait
        self._from_latest = from_latest
        self._session_timeout = session_timeout
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._metrics = metrics
        self._held: frozenset[Partition] = frozenset()
        self._heard_at = self._looked_at = 0.0
        check(config, self.topics)

    # What callers use

    def batches(self, stop: threading.Event | None = None, *, idle: bool = False) -> Iterator[Batch]:
        """Yield batches until `stop` is set; with `idle`, also an empty one whenever nothing came for `max_wait`.

        Asking for the next batch says that the last one is dealt with: then its commit is sent. What was yielded and
        not dealt with (an exception, a `break`) will be read again. Raises `BrokerUnreachableError` when no broker
        answered for `config.delivery_timeout` seconds, `CommitError` when one doesn't take commits for as long.
        """
        stop = stop or threading.Event()
        self._heard_at = self._looked_at = time.monotonic()
        while not stop.is_set():
            batch = self._poll()
            if len(batch) > 0:
                yield from self._dealt_with(batch, stop)
                self._heard_at = self._looked_at = time.monotonic()
                continue
            self._look_for_brokers()
            if idle:
                yield batch
        self._finish_commits()

    @property
    def held(self) -> frozenset[Partition]:
        """The partitions that are this member's now."""
        return self._held

    @abstractmethod
    def close(self) -> None:
        """Leave the group, so that others take over at once. What was not committed will be read again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # What the two clients do differently

    @abstractmethod
    def _poll(self) -> Batch:
        """Read the next batch, which is empty if nothing came; may call `_assigned` and `_revoked`."""

    @abstractmethod
    def _commit_read(self) -> None:
        """Commit all that was read; the answer may come later, from within `_poll`."""

    @abstractmethod
    def _finish_commits(self) -> None:
        """Wait for the answers to all commits."""

    @abstractmethod
    def _tell_read(self) -> None:
        """Commit all that was read, without waiting and whatever comes of it."""

    @abstractmethod
    def _commit_offsets(self, offsets: Mapping[Partition, int]) -> None:
        """Commit these, and wait for the answer."""

    # Shared

    def _dealt_with(self, batch: Batch, stop: threading.Event) -> Iterator[Batch]:
        if self._commit is CommitStrategy.EACH_RECORD:
            for record in batch.records():
                single = RecordBatch([record])
                yield from self._timed(single)
                self._commit_offsets(single.next_offsets())
                if stop.is_set():
                    return
            return
        yield from self._timed(batch)
        if self._commit is CommitStrategy.EACH_BATCH:
            self._commit_read()
        else:
            self._tell_read()

    def _timed(self, batch: Batch) -> Iterator[Batch]:
        began = time.monotonic()
        yield batch
        if self._metrics is not None:
            self._metrics.batch_seconds.labels(self.group).observe(time.monotonic() - began)
            self._metrics.batch_events.labels(self.group).observe(len(batch))
            self._metrics.consumed.labels(self.group).inc(len(batch))

    def _look_for_brokers(self) -> None:
        """Find out whether it is quiet or nobody is there: the clients try for ever, and say nothing."""
        now = time.monotonic()
        if now - self._looked_at < self.config.connect_timeout:
            return
        self._looked_at = now
        try:
            check(replace(self.config, connect_timeout=min(_LOOK_SECONDS, self.config.connect_timeout)), self.topics)
            self._heard_at = now
        except StreamError as error:
            if now - self._heard_at >= self.config.delivery_timeout:
                raise
            log.warning("%s: %s", self.group, error)

    def _assigned(self, partitions: Sequence[Partition]) -> None:
        self._held |= frozenset(partitions)
        self._rebalanced("assigned", partitions)
        if self._on_assigned is not None:
            self._on_assigned(partitions)

    def _revoked(self, partitions: Sequence[Partition], kind: str = "revoked") -> None:
        self._held -= frozenset(partitions)
        self._rebalanced(kind, partitions)
        if self._on_revoked is not None:
            self._on_revoked(partitions)

    def _rebalanced(self, kind: str, partitions: Sequence[Partition]) -> None:
        log.info("%s: %s %s", self.group, kind, ", ".join(f"{topic}-{number}" for topic, number in sorted(partitions)))
        if self._metrics is not None:
            self._metrics.rebalances.labels(self.group, kind).inc()
            self._metrics.partitions.labels(self.group).set(len(self._held))

    def _overtaken(self, why: str) -> None:
        """Note a commit that the group refused, or a member that it took for dead: others read on from before."""
        log.warning("%s: not committed, others will read it again: %s", self.group, why)
        if self._metrics is not None:
            self._metrics.commit_failures.labels(self.group).inc()

    def _not_committed(self, why: str, began: float) -> StreamError:
        return CommitError(f"{self.group} could not commit for {time.monotonic() - began:.0f} s: {why}")


class RecordBatch:
    """A batch of records that were taken apart already."""

    def __init__(self, records: list[Record]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def records(self) -> list[Record]:
        """Return all of each record."""
        return self._records

    def values(self) -> list[bytes | None]:
        """Return the values alone."""
        return [record.value for record in self._records]

    def next_offsets(self) -> Mapping[Partition, int]:
        """Return where reading goes on, by partition."""
        return {Partition(record.topic, record.partition): record.offset + 1 for record in self._records}
