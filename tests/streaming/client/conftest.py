"""What tests of the client share: topics of their own on the session's broker, and both clients by turns."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from streams import ConsumerClass, MakeTopic, ProducerClass, ReadAll, unique

from music_pulse.embedded.broker import Endpoint
from streaming.client import (
    BulkConsumer,
    BulkProducer,
    Consumer,
    KafkaConfig,
    Producer,
    Record,
    Topic,
    check,
    ensure_topics,
)
from streaming.client.consumer import as_record


@pytest.fixture
def config(broker: Endpoint) -> KafkaConfig:
    """The way to the session's broker."""
    return KafkaConfig(broker.bootstrap, delivery_timeout=30)


@pytest.fixture
def make_topic(config: KafkaConfig) -> MakeTopic:
    """Make a topic; keywords are settings of the topic, with `_` for `.`.

    One with times of the past keeps them by retention_ms=-1: else they go when the broker looks for old segments.
    """

    def make(partitions: int = 3, **settings: Any) -> str:
        name = unique("events")
        options = {key.replace("_", "."): str(value) for key, value in settings.items()}
        ensure_topics(config, [Topic(name, partitions, config=options)])
        return name

    return make


@pytest.fixture
def topic(make_topic: MakeTopic) -> str:
    """A topic of three partitions."""
    return make_topic()


@pytest.fixture
def group() -> str:
    """A consumer group that nobody is in."""
    return unique("group")


@pytest.fixture(params=[Producer, BulkProducer])
def producer_class(request: pytest.FixtureRequest) -> ProducerClass:
    """The producer of either client."""
    kind: ProducerClass = request.param
    return kind


@pytest.fixture(params=[Consumer, BulkConsumer])
def consumer_class(request: pytest.FixtureRequest) -> ConsumerClass:
    """The consumer of either client."""
    kind: ConsumerClass = request.param
    return kind


@pytest.fixture
def read_all(config: KafkaConfig) -> ReadAll:
    """Read all committed events of a topic: bare, without a group, or by a consumer of ours until `count` are there."""

    def read(topic: str, count: int, kind: ConsumerClass | None = None) -> list[Record]:
        records = read_bare(config, topic) if kind is None else read_by(kind, config, topic, count)
        assert len(records) == count
        return records

    return read


def read_by(kind: ConsumerClass, config: KafkaConfig, topic: str, count: int) -> list[Record]:
    """Read until `count` events were found, and then whether more come."""
    records: list[Record] = []
    stop = threading.Event()
    deadline = time.monotonic() + 30
    with kind(config, [topic], unique("reader"), max_wait=0.3) as consumer:  # type: ignore[call-arg]
        for batch in consumer.batches(stop, idle=True):
            records += batch.records()
            if (len(records) >= count and len(batch) == 0) or time.monotonic() > deadline:
                stop.set()
    return records


def read_bare(config: KafkaConfig, topic: str) -> list[Record]:
    """Read each partition to its end."""
    places = [TopicPartition(topic, number) for number in range(check(config).topics[topic])]
    client = KafkaConsumer(**config.kafka_python(), isolation_level="read_committed", fetch_max_wait_ms=10)
    try:
        client.assign(places)
        client.seek_to_beginning(*places)
        ends = client.end_offsets(places)
        records: list[Record] = []
        while any(client.position(place) < end for place, end in ends.items()):
            records += [as_record(found) for together in client.poll(1_000).values() for found in together]
        return records
    finally:
        client.close()
