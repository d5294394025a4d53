"""How far groups are behind: a plain function, and the same as a Prometheus collector."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from streaming.client.backoff import asked_again
from streaming.client.config import KafkaConfig
from streaming.client.connection import check
from streaming.client.errors import StreamError, translated
from streaming.client.library_logs import LibrdkafkaLog
from streaming.client.records import Partition

log = logging.getLogger(__name__)


_MOVES = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
}
"""Who answers for the group, or the partition, is being found, as after a broker's start: soon somebody does."""


class Lag(NamedTuple):
    """What a group has yet to read of a partition. An idle transactional topic keeps 1 or 2: its markers count."""

    group: str
    partition: Partition
    committed: int | None
    """Next offset to read; None: the group has none, and all that is there counts."""
    end: int
    """The offset after the last committed event."""
    events: int


def measure_lag(config: KafkaConfig, groups: Iterable[str], topics: Sequence[str]) -> list[Lag]:
    """Return the lag of each of `groups` in each partition of `topics`, sorted. Raises `StreamError`."""
    found = check(config, topics).topics
    partitions = [Partition(topic, number) for topic in topics for number in range(found[topic])]
    admin = AdminClient(config.confluent(), logger=LibrdkafkaLog())
    try:
        starts, ends = (
            asked_again(partial(_ends, admin, config, partitions, spec), _is_passing, config.connect_timeout)
            for spec in (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]
        )
        lags = []
        for group in groups:
            committed = _committed(config, group, partitions)
            for partition in partitions:
                at = committed.get(partition)
                since = max(starts[partition], at or 0)
                lags.append(Lag(group, partition, at, ends[partition], max(0, ends[partition] - since)))
    except KafkaException as error:
        raise translated(error, "measuring the lag") from error
    return sorted(lags)


def _ends(
    admin: AdminClient, config: KafkaConfig, partitions: Sequence[Partition], spec: OffsetSpec
) -> dict[Partition, int]:
    futures = admin.list_offsets(
        {TopicPartition(*partition): spec for partition in partitions},
        isolation_level=IsolationLevel.READ_COMMITTED,
        request_timeout=config.connect_timeout,
    )
    return {Partition(place.topic, place.partition): future.result().offset for place, future in futures.items()}


def _committed(config: KafkaConfig, group: str, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
    """Ask as a member that never joins: librdkafka's `list_consumer_group_offsets` crashes the process when the
    coordinator is still loading, which it is for seconds after a broker's start."""
    options = {**config.confluent(), "group.id": group, "enable.auto.commit": False}
    consumer = Consumer(options, logger=LibrdkafkaLog())
    wanted = [TopicPartition(*partition) for partition in partitions]
    try:
        ask = partial(consumer.committed, wanted, timeout=config.connect_timeout)
        found = asked_again(ask, _is_passing, config.connect_timeout)
        return {Partition(place.topic, place.partition): place.offset for place in found if place.offset >= 0}
    finally:
        consumer.close()


def _is_passing(error: KafkaError) -> bool:
    return error.code() in _MOVES


class LagCollector(Collector):
    """Tells Prometheus the lag of `groups`, asked for at each scrape: `registry.register(LagCollector(...))`."""

    def __init__(self, config: KafkaConfig, groups: Sequence[str], topics: Sequence[str]) -> None:
        self._config = config
        self._groups = groups
        self._topics = topics

    def describe(self) -> list[GaugeMetricFamily]:
        """Say what `collect` gives, without asking a broker."""
        return [self._family()]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Measure; without a broker there is no lag to tell, and the scrape goes on."""
        family = self._family()
        try:
            for lag in measure_lag(self._config, self._groups, self._topics):
                family.add_metric([lag.group, lag.partition.topic, str(lag.partition.number)], lag.events)
        except StreamError as error:
            log.warning("no lag to tell: %s", error)
        yield family

    def _family(self) -> GaugeMetricFamily:
        return GaugeMetricFamily("pulse_kafka_lag", "Events yet to be read.", labels=["group", "topic", "partition"])
