"""Both producers, against a real broker: what holds for one must hold for the other."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from streams import MakeTopic, ProducerClass, ReadAll, by_key, unique

from streaming.client import (
    BulkConsumer,
    BulkProducer,
    BytesSerializer,
    Consumer,
    Delivery,
    DeliveryError,
    EventConsumer,
    EventProducer,
    FencedError,
    JsonSerializer,
    KafkaConfig,
    Producer,
    SerializationError,
    StreamMetrics,
    TokenBucket,
    TransactionError,
    UnknownTopicError,
)


@pytest.mark.parametrize("consumer_class", [Consumer, BulkConsumer])
def test_an_event_arrives_as_it_was_sent(
    producer_class: ProducerClass, consumer_class: type[EventConsumer], config: KafkaConfig, make_topic: MakeTopic,
    read_all: ReadAll,
) -> None:  # fmt: skip
    topic = make_topic(message_timestamp_type="CreateTime", retention_ms=-1)
    with producer_class(config, topic, JsonSerializer()) as producer:
        producer.send("Zoë", {"a": 1}, [("source", b"one"), ("source", b"\xff\x00")], timestamp_ms=1_700_000_000_123)
    [record] = read_all(topic, 1, consumer_class)
    assert record == (
        topic,
        record.partition,
        0,
        1_700_000_000_123,
        "Zoë".encode(),
        b'{"a":1}',
        [("source", b"one"), ("source", b"\xff\x00")],
    )


def test_empty_values_and_tombstones_stay_what_they_are(
    producer_class: ProducerClass, config: KafkaConfig, topic: str, read_all: ReadAll
) -> None:
    with producer_class(config, topic, BytesSerializer()) as producer:
        producer.send("empty", b"")
        producer.send("tombstone", None)
        producer.send(None, b"no key")
        producer.send("", b"empty key")
        producer.send_many([b"many", b"many"], [b"", None])
    assert by_key(read_all(topic, 6)) == {
        b"empty": [b""],
        b"tombstone": [None],
        None: [b"no key"],
        b"": [b"empty key"],
        b"many": [b"", None],
    }


def test_an_event_of_nothing_is_refused(producer_class: ProducerClass, config: KafkaConfig, topic: str) -> None:
    with producer_class(config, topic, BytesSerializer()) as producer, pytest.raises(SerializationError):
        producer.send(None, None)


def test_many_at_once_arrive_in_order_with_their_times(
    producer_class: ProducerClass, config: KafkaConfig, make_topic: MakeTopic, read_all: ReadAll
) -> None:
    topic = make_topic(message_timestamp_type="CreateTime", retention_ms=-1)
    keys = [b"user-%d" % (number % 7) for number in range(2_000)]
    values = [b"%d" % number for number in range(2_000)]
    times = [1_700_000_000_000 + number for number in range(2_000)]
    with producer_class(config, topic, BytesSerializer()) as producer:
        producer.send_many(keys[:1_000], values[:1_000])
        producer.send_many(keys[1_000:], values[1_000:], times[1_000:])
    records = read_all(topic, 2_000)
    assert by_key(records) == {key: values[number::7] for number, key in enumerate(keys[:7])}
    sent_at = {record.value: record.timestamp_ms for record in records}
    assert [sent_at[value] for value in values[1_000:]] == times[1_000:]


def test_columns_of_unequal_length_are_refused(producer_class: ProducerClass, config: KafkaConfig, topic: str) -> None:
    with producer_class(config, topic, BytesSerializer()) as producer:
        for columns in (([b"a"], [b"1", b"2"]), ([b"a"], [b"1"], [1, 2])):
            with pytest.raises(ValueError, match="length|argument"):
                producer.send_many(*columns)


def test_both_clients_put_a_key_into_the_same_partition(config: KafkaConfig, topic: str, read_all: ReadAll) -> None:
    keys = [f"user {number} ü" for number in range(100)]
    for kind in (Producer, BulkProducer):
        with kind(config, topic, BytesSerializer()) as producer:
            for key in keys:
                producer.send(key, kind.__name__.encode())
    found: dict[bytes | None, set[int]] = {}
    for record in read_all(topic, 200):
        found.setdefault(record.key, set()).add(record.partition)
    assert all(len(partitions) == 1 for partitions in found.values())
    assert set.union(*found.values()) == {0, 1, 2}


def test_each_delivery_is_told(producer_class: ProducerClass, config: KafkaConfig, topic: str) -> None:
    told: list[Delivery] = []
    with producer_class(config, topic, BytesSerializer(), on_delivery=told.append) as producer:
        for number in range(10):
            producer.send("same", b"%d" % number)
    assert [delivery.offset for delivery in told] == list(range(10))
    assert {(delivery.topic, delivery.key, delivery.error) for delivery in told} == {(topic, b"same", None)}


def test_an_event_larger_than_allowed_is_an_error_at_once_and_no_other_is_lost(
    producer_class: ProducerClass, config: KafkaConfig, topic: str, read_all: ReadAll
) -> None:
    with producer_class(config, topic, BytesSerializer()) as producer:
        producer.send("a", b"before")
        with pytest.raises(DeliveryError, match="(?i)too ?large") as caught:
            producer.send("a", bytes(2_000_000))
        with pytest.raises(DeliveryError, match="(?i)too ?large"):
            producer.send_many([b"a", b"a", b"a"], [b"first", bytes(2_000_000), b"not reached"])
        producer.send("a", b"after")
    assert caught.value.undelivered == 1
    assert by_key(read_all(topic, 3)) == {b"a": [b"before", b"first", b"after"]}


def test_an_event_that_the_broker_refuses_is_an_error_of_the_flush(
    producer_class: ProducerClass, config: KafkaConfig, make_topic: MakeTopic, read_all: ReadAll
) -> None:
    topic = make_topic(max_message_bytes=2_000)
    told: list[Delivery] = []
    producer = producer_class(config, topic, BytesSerializer(), on_delivery=told.append)
    producer.send("a", random.Random(1).randbytes(50_000))
    with pytest.raises(DeliveryError, match=f"1 events to {topic} were not delivered: .*(?i:too ?large)") as caught:
        producer.flush()
    assert caught.value.undelivered == 1
    [delivery] = told
    assert (delivery.key, delivery.offset) == (b"a", -1)
    assert delivery.error is not None
    producer.send("a", b"small")
    producer.close()  # what was told once is not told again, nor does it spoil what comes after
    assert by_key(read_all(topic, 1)) == {b"a": [b"small"]}


def test_what_can_not_be_encoded_is_not_sent(
    producer_class: ProducerClass, config: KafkaConfig, topic: str, read_all: ReadAll
) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with producer_class(config, topic, JsonSerializer()) as producer:
        with pytest.raises(SerializationError):
            producer.send("a", endless)
        with pytest.raises(SerializationError):
            producer.send("\ud800", 1)
        producer.send("a", 1)
    assert by_key(read_all(topic, 1)) == {b"a": [b"1"]}


def test_a_topic_that_is_not_there_is_told_at_once(producer_class: ProducerClass, config: KafkaConfig) -> None:
    with pytest.raises(UnknownTopicError, match="nowhere"):
        producer_class(replace(config, connect_timeout=0.5), "nowhere", BytesSerializer())


def test_no_more_than_the_bound_waits(producer_class: ProducerClass, config: KafkaConfig, topic: str) -> None:
    waiting = []
    with producer_class(config, topic, BytesSerializer(), max_queued=20) as producer:
        for number in range(500):
            producer.send("a", b"%d" % number)
            waiting.append(producer.pending)
        producer.send_many([b"a"] * 500, [b"x"] * 500)
    assert 1 <= max(waiting) <= 20
    assert producer.pending == 0


def test_the_rate_holds_for_one_by_one_and_for_many(
    producer_class: ProducerClass, config: KafkaConfig, topic: str, read_all: ReadAll
) -> None:
    slept: list[float] = []
    bucket = TokenBucket(1_000, burst=10, clock=lambda: sum(slept), sleep=slept.append)
    with producer_class(config, topic, BytesSerializer(), rate=bucket) as producer:
        for number in range(110):
            producer.send("a", b"%d" % number)
        assert sum(slept) == pytest.approx(0.1)
        producer.send_many([b"a"] * 400, [b"x"] * 400)
        assert sum(slept) == pytest.approx(0.5)
        assert max(slept) <= 0.0101  # spread out, not in one go
    read_all(topic, 510)


def test_metrics_count_what_was_sent_delivered_and_refused(
    producer_class: ProducerClass, config: KafkaConfig, topic: str
) -> None:
    registry = CollectorRegistry()
    producer = producer_class(config, topic, BytesSerializer(), metrics=StreamMetrics(registry))
    producer.send_many([b"a"] * 10, [b"x"] * 10)
    with pytest.raises(DeliveryError):
        producer.send("a", bytes(2_000_000))
    producer.close()
    value = registry.get_sample_value
    labels = {"topic": topic}
    assert value("pulse_kafka_sent_total", labels) == 11
    assert value("pulse_kafka_delivered_total", labels) == 10
    assert value("pulse_kafka_failed_total", labels) == 1
    assert value("pulse_kafka_queued", labels) == 0


# Transactions


def test_committed_readers_see_whole_transactions_and_nothing_of_aborted_ones(
    producer_class: ProducerClass, consumer_class: type[EventConsumer], config: KafkaConfig, topic: str,
    read_all: ReadAll,
) -> None:  # fmt: skip
    with producer_class(config, topic, JsonSerializer(), transactional_id=unique("tx")) as producer:
        with producer.transaction():
            for number in range(5):
                producer.send(f"user {number}", "committed")
        with suppress(KeyboardInterrupt), producer.transaction():
            for number in range(5):
                producer.send(f"user {number}", "aborted")
            producer.flush()  # the broker has them
            raise KeyboardInterrupt
        with producer.transaction():
            producer.send("user 0", "again")
    values = by_key(read_all(topic, 6, consumer_class))
    assert values.pop(b"user 0") == [b'"committed"', b'"again"']
    assert values == {b"user %d" % number: [b'"committed"'] for number in range(1, 5)}


def test_an_event_that_can_not_be_delivered_aborts_its_transaction(
    producer_class: ProducerClass, config: KafkaConfig, topic: str, read_all: ReadAll
) -> None:
    with producer_class(config, topic, BytesSerializer(), transactional_id=unique("tx")) as producer:
        with pytest.raises(DeliveryError), producer.transaction():
            producer.send_many([b"a", b"a"], [b"with the large one", bytes(2_000_000)])
        with producer.transaction():
            producer.send("a", b"later")
    assert by_key(read_all(topic, 1)) == {b"a": [b"later"]}


def test_an_event_that_the_broker_refuses_aborts_its_transaction(
    producer_class: ProducerClass, config: KafkaConfig, make_topic: MakeTopic, read_all: ReadAll
) -> None:
    topic = make_topic(max_message_bytes=2_000)
    with producer_class(config, topic, BytesSerializer(), transactional_id=unique("tx")) as producer:
        with pytest.raises(DeliveryError), producer.transaction():
            producer.send_many([b"a", b"b"], [b"with the large one", random.Random(1).randbytes(50_000)])
        with producer.transaction():
            producer.send("a", b"later")
    assert by_key(read_all(topic, 1)) == {b"a": [b"later"]}


def test_who_takes_over_a_transactional_id_fences_the_other(
    producer_class: ProducerClass, config: KafkaConfig, topic: str, read_all: ReadAll
) -> None:
    name = unique("tx")
    zombie: EventProducer[bytes] = producer_class(config, topic, BytesSerializer(), transactional_id=name)
    with zombie.transaction():
        zombie.send("a", b"first")
    with producer_class(config, topic, BytesSerializer(), transactional_id=name) as successor:
        with successor.transaction():
            successor.send("a", b"second")
        with pytest.raises(FencedError, match="end this one"), zombie.transaction():
            zombie.send("a", b"of a zombie")
        with successor.transaction():
            successor.send("a", b"third")
    zombie.close(1)
    assert by_key(read_all(topic, 3)) == {b"a": [b"first", b"second", b"third"]}


def test_transactions_are_used_whole_or_not_at_all(
    producer_class: ProducerClass, config: KafkaConfig, topic: str
) -> None:
    with producer_class(config, topic, BytesSerializer()) as plain, pytest.raises(TransactionError):
        plain.transaction().__enter__()
    with producer_class(config, topic, BytesSerializer(), transactional_id=unique("tx")) as producer:
        with pytest.raises(TransactionError, match="within"):
            producer.send("a", b"outside")
        with producer.transaction(), pytest.raises(TransactionError, match="nest"):
            producer.transaction().__enter__()
