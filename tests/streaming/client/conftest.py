"""What tests of the client share: topics of their own on the session's broker, and both clients by turns."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
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
    ensure_topics,
)


@pytest.fixture
def config(broker: Endpoint) -> KafkaConfig:
    """The way to the session's broker."""
    return KafkaConfig(broker.bootstrap, delivery_timeout=30)


@pytest.fixture
def make_topic(config: KafkaConfig) -> MakeTopic:
    """Make a topic; keywords are settings of the topic, with `_` for `.`."""

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
    """Read a topic from its beginning until `count` committed events were found; then look whether more come."""

    def read(topic: str, count: int, kind: ConsumerClass = Consumer) -> list[Record]:
        records: list[Record] = []
        stop = threading.Event()
        deadline = time.monotonic() + 30
        with kind(config, [topic], unique("reader"), max_wait=0.3) as consumer:  # type: ignore[call-arg]
            for batch in consumer.batches(stop, idle=True):
                records += batch.records()
                if (len(records) >= count and len(batch) == 0) or time.monotonic() > deadline:
                    stop.set()
        return records

    return read
