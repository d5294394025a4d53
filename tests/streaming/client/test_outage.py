"""A broker that is killed: what comes back, what is lost (nothing), and how long anybody waits."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from streams import ConsumerClass, ProducerClass, by_key, unique

from music_pulse.embedded.broker import EmbeddedBroker
from streaming.client import (
    Batch,
    BrokerUnreachableError,
    BulkConsumer,
    BulkProducer,
    BytesSerializer,
    CommitError,
    Consumer,
    Delivery,
    DeliveryError,
    EventConsumer,
    EventProducer,
    KafkaConfig,
    Producer,
    StreamError,
    Topic,
    ensure_topics,
)

pytestmark = pytest.mark.integration


class MortalBroker:
    """A broker of our own, to be killed and started again at the same address."""

    def __init__(self, home: Path, jar_cache: Path) -> None:
        self._broker = EmbeddedBroker(home, jar_cache)
        self._pid_path = home / "kafka" / "server.pid"
        self.is_up = False
        self.start()

    def start(self) -> None:
        if not self.is_up:
            self.config = KafkaConfig(self._broker.start().bootstrap, connect_timeout=10, delivery_timeout=60)
        self.is_up = True

    def kill(self) -> None:
        os.kill(int(self._pid_path.read_text()), signal.SIGKILL)
        while self._broker.is_running():
            time.sleep(0.01)
        self.is_up = False

    def stop(self) -> None:
        self._broker.stop()


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory, jar_cache: Path) -> Iterator[MortalBroker]:
    broker = MortalBroker(tmp_path_factory.mktemp("mortal"), jar_cache)
    yield broker
    broker.stop()


@pytest.fixture
def alive(mortal: MortalBroker) -> MortalBroker:
    """The broker, up again if the last test has killed it."""
    mortal.start()
    return mortal


def topic_on(broker: MortalBroker) -> str:
    name = unique("events")
    ensure_topics(broker.config, [Topic(name, 2)])
    return name


def in_background(consumer: EventConsumer, stop: threading.Event) -> tuple[threading.Thread, list[Any], list[Any]]:
    """Read until `stop`; return the thread, what it reads and how it failed."""
    records: list[Any] = []
    failures: list[Any] = []

    def run() -> None:
        try:
            with consumer:
                for batch in consumer.batches(stop):
                    records.extend(batch.records())
        except StreamError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, records, failures


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_all_go_on_when_the_broker_is_back_and_every_event_is_there_once(alive: MortalBroker) -> None:
    topic = topic_on(alive)
    stop = threading.Event()
    readers = [
        in_background(kind(alive.config, [topic], unique("group"), max_wait=0.2, session_timeout=30), stop)
        for kind in (Consumer, BulkConsumer)
    ]
    producers: list[EventProducer[bytes]] = [
        kind(alive.config, topic, BytesSerializer()) for kind in (Producer, BulkProducer)
    ]

    def send(numbers: range) -> None:
        for producer in producers:
            key = type(producer).__name__.encode()
            producer.send_many([key] * len(numbers), [b"%d" % number for number in numbers])

    try:
        send(range(500))
        for producer in producers:
            producer.flush()
        wait_for(lambda: all(len(records) for _, records, _ in readers))
        alive.kill()
        send(range(500, 1_000))
        for producer in producers:
            with pytest.raises(DeliveryError, match="500 events to .* were not delivered") as caught:
                producer.flush(0.5)
            assert caught.value.undelivered == 500
        alive.start()
        send(range(1_000, 1_500))
        for producer in producers:
            producer.close()
        expected = [b"%d" % number for number in range(1_500)]
        for _, records, _ in readers:
            wait_for(lambda records=records: len(records) >= 3_000)  # type: ignore[misc]
            in_order = sorted(records, key=lambda record: (record.partition, record.offset))
            assert by_key(in_order) == {b"Producer": expected, b"BulkProducer": expected}
    finally:
        stop.set()
        for thread, _, _ in readers:
            thread.join(60)
    assert [failures for _, _, failures in readers] == [[], []]


def send_and_flush(producer: EventProducer[bytes], count: int) -> None:
    for number in range(count):
        producer.send("a", b"%d" % number)
    producer.flush()


def test_without_a_broker_producers_give_up_in_bounded_time(alive: MortalBroker) -> None:
    topic = topic_on(alive)
    config = replace(alive.config, connect_timeout=1.5, delivery_timeout=1.5)
    told: list[Delivery] = []
    producers: list[tuple[EventProducer[bytes], EventProducer[bytes]]] = []
    for kind in (Producer, BulkProducer):
        producer = kind(config, topic, BytesSerializer(), on_delivery=told.append, max_queued=5)
        producer.send("a", b"delivered")
        producer.flush()
        producers.append((producer, kind(config, topic, BytesSerializer(), transactional_id=unique("tx"))))
    alive.kill()
    for producer, transactional in producers:
        told.clear()
        with pytest.raises(DeliveryError, match=f"5 events to {topic} were not delivered"):
            send_and_flush(producer, 5)
        with pytest.raises(StreamError, match=r"not delivered|none was delivered|is the broker up"):
            send_and_flush(producer, 10)
        with suppress(DeliveryError):
            producer.close()
        assert told
        assert all(delivery.error is not None for delivery in told)
        with pytest.raises(StreamError), transactional.transaction():
            transactional.send("a", b"x")


def test_without_a_broker_consumers_give_up_in_bounded_time(alive: MortalBroker) -> None:
    topic = topic_on(alive)
    config = replace(alive.config, connect_timeout=0.5, delivery_timeout=1.5)
    with BulkProducer(alive.config, topic, BytesSerializer()) as producer:
        producer.send("a", b"x")
    consumers: list[tuple[EventConsumer, Iterator[Batch], EventConsumer, Iterator[Batch]]] = []
    for kind in (Consumer, BulkConsumer):
        reader = kind(config, [topic], unique("group"), max_wait=0.2)
        committer = kind(config, [topic], unique("group"), max_wait=0.2)
        reading, committing = reader.batches(idle=True), committer.batches()
        while not len(next(reading)):
            pass
        next(reading)  # the first is committed
        next(committing)
        consumers.append((reader, reading, committer, committing))
    alive.kill()
    for reader, reading, committer, committing in consumers:
        with pytest.raises((CommitError, BrokerUnreachableError), match="could not commit for|is the broker up"):
            next(committing)
        with pytest.raises(BrokerUnreachableError, match="is the broker up"):
            list(reading)
        reader.close()
        committer.close()


def test_nobody_there_at_the_start_is_told_in_one_line(
    mortal: MortalBroker, producer_class: ProducerClass, consumer_class: ConsumerClass
) -> None:
    if mortal.is_up:
        mortal.kill()
    config = replace(mortal.config, connect_timeout=0.5)
    with pytest.raises(BrokerUnreachableError, match=config.bootstrap):
        producer_class(config, "any", BytesSerializer())
    with pytest.raises(BrokerUnreachableError, match=config.bootstrap):
        consumer_class(config, ["any"], "any")  # type: ignore[call-arg]
