from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from confluent_kafka import KafkaError, KafkaException
from prometheus_client import CollectorRegistry, generate_latest
from streams import MakeTopic, unique

from streaming.client import (
    BulkProducer,
    BytesSerializer,
    Consumer,
    KafkaConfig,
    Lag,
    LagCollector,
    Partition,
    UnknownTopicError,
    lag,
    measure_lag,
)
from streaming.client.backoff import asked_again


def test_lag_is_what_a_group_has_yet_to_read(config: KafkaConfig, make_topic: MakeTopic, group: str) -> None:
    topic = make_topic(partitions=2)
    with BulkProducer(config, topic, BytesSerializer()) as producer:
        producer.send_many([b"a"] * 10, [b"x"] * 10)
    place = Partition(topic, 0 if measure_lag(config, [group], [topic])[0].end else 1)
    other = Partition(topic, 1 - place.number)
    nobody = unique("group")
    assert measure_lag(config, [nobody], [topic]) == sorted(
        [Lag(nobody, place, None, 10, 10), Lag(nobody, other, None, 0, 0)]
    )
    stop = threading.Event()
    with Consumer(config, [topic], group, max_records=4, max_wait=0.2) as consumer:
        for _ in consumer.batches(stop):
            stop.set()
    lags = {lag.partition: lag for lag in measure_lag(config, [group], [topic])}
    assert lags[place] == Lag(group, place, 4, 10, 6)
    assert lags[other].events == 0


def test_markers_of_transactions_count_for_at_most_two(config: KafkaConfig, make_topic: MakeTopic, group: str) -> None:
    topic = make_topic(partitions=1)
    with BulkProducer(config, topic, BytesSerializer(), transactional_id=unique("tx")) as producer:
        for _ in range(2):
            with producer.transaction():
                producer.send("a", b"x")
    stop = threading.Event()
    read = 0
    with Consumer(config, [topic], group, max_wait=0.2) as consumer:
        for batch in consumer.batches(stop):
            read += len(batch)
            if read == 2:
                stop.set()
    [lag] = measure_lag(config, [group], [topic])
    assert lag.events <= 2


def test_a_broker_that_is_still_finding_its_leaders_is_asked_again() -> None:
    answers = [KafkaError.UNKNOWN_LEADER_EPOCH, KafkaError.NOT_LEADER_FOR_PARTITION]

    def ask() -> str:
        if answers:
            raise KafkaException(KafkaError(answers.pop()))
        return "answered"

    assert asked_again(ask, lag._is_passing, seconds=30) == "answered"
    answers.append(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(KafkaException):
        asked_again(ask, lag._is_passing, seconds=30)


def test_prometheus_is_told_at_each_scrape(config: KafkaConfig, make_topic: MakeTopic, group: str) -> None:
    topic = make_topic(partitions=1)
    registry = CollectorRegistry()
    registry.register(LagCollector(config, [group], [topic]))
    labels = {"group": group, "topic": topic, "partition": "0"}
    assert registry.get_sample_value("pulse_kafka_lag", labels) == 0
    with BulkProducer(config, topic, BytesSerializer()) as producer:
        producer.send("a", b"x")
    assert registry.get_sample_value("pulse_kafka_lag", labels) == 1


def test_without_a_broker_a_scrape_goes_on_without_the_lag() -> None:
    registry = CollectorRegistry()
    registry.register(LagCollector(KafkaConfig("127.0.0.1:1", connect_timeout=0.3), ["group"], ["topic"]))
    assert b"\npulse_kafka_lag{" not in generate_latest(registry)


def test_the_lag_in_a_topic_that_is_not_there_is_an_error(config: KafkaConfig, group: str) -> None:
    with pytest.raises(UnknownTopicError):
        measure_lag(replace(config, connect_timeout=0.5), [group], ["nowhere"])
