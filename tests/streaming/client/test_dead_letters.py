from __future__ import annotations

import random
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry
from streams import ReadAll, unique

from streaming.client import (
    BulkProducer,
    BytesSerializer,
    DeadLetters,
    KafkaConfig,
    Origin,
    Record,
    StreamMetrics,
    UnknownTopicError,
    ensure_topics,
    listen_topics,
)


@pytest.fixture
def topic(config: KafkaConfig) -> str:
    """A topic and its dead letters."""
    name = unique("listens")
    ensure_topics(config, listen_topics(config, name, 1))
    return name


def test_a_dead_letter_is_the_event_as_it_came_with_where_from_and_why(
    config: KafkaConfig, topic: str, read_all: ReadAll
) -> None:
    headers = [("client", b"one"), ("client", b"\xff"), ("nothing", None), ("empty", b""), ("dead-letter-box", b"5")]
    with BulkProducer(config, topic, BytesSerializer()) as producer:
        producer.send("rob", b"\xffnot JSON", headers)
        producer.send("rob", None)
    records = read_all(topic, 2)
    with DeadLetters(config, topic) as dead_letters:
        for record in records:
            dead_letters.send(record, "can't be decoded")
    first, second = read_all(f"{topic}.dead-letters", 2)
    assert (first.key, first.value, first.headers[:5]) == (b"rob", b"\xffnot JSON", headers)
    assert [name for name, _ in first.headers[5:]] == [
        "dead-letter-reason",
        "dead-letter-topic",
        "dead-letter-partition",
        "dead-letter-offset",
        "dead-letter-timestamp_ms",
    ]
    assert Origin.of(first.headers) == ("can't be decoded", topic, 0, 0, records[0].timestamp_ms)
    assert (second.key, second.value) == (b"rob", None)
    assert Origin.of(second.headers) == ("can't be decoded", topic, 0, 1, records[1].timestamp_ms)


def test_who_dies_twice_keeps_both_stories_and_the_last_counts(
    config: KafkaConfig, topic: str, read_all: ReadAll
) -> None:
    record = Record(topic, 0, 7, 1_700_000_000_000, b"rob", b"x", [("client", b"one")])
    with DeadLetters(config, topic) as dead_letters:
        dead_letters.send(record, "first")
        dead_letters.flush()
        [first] = read_all(dead_letters.topic, 1)
        dead_letters.send(first, "second")
    second = read_all(dead_letters.topic, 2)[1]
    assert second.headers[: len(first.headers)] == first.headers
    assert Origin.of(second.headers) == ("second", dead_letters.topic, 0, 0, first.timestamp_ms)


def test_an_event_as_large_as_may_be_still_fits(config: KafkaConfig, topic: str, read_all: ReadAll) -> None:
    largest = random.Random(1).randbytes(config.max_event_bytes - 300)
    with BulkProducer(config, topic, BytesSerializer()) as producer:
        producer.send("rob", largest, [("client", b"x" * 100)])
    [record] = read_all(topic, 1)
    with DeadLetters(config, topic) as dead_letters:
        dead_letters.send(record, "of no use")
    [letter] = read_all(dead_letters.topic, 1)
    assert letter.value == largest


def test_any_reason_can_be_written(config: KafkaConfig, topic: str, read_all: ReadAll) -> None:
    registry = CollectorRegistry()
    with DeadLetters(config, topic, metrics=StreamMetrics(registry)) as dead_letters:
        dead_letters.send(Record(topic, 0, 0, -1, None, b"x", []), "schön")
        dead_letters.send(Record(topic, 0, 1, -1, None, b"x", []), "\ud800" + "long" * 10_000)
    reasons = [origin.reason for letter in read_all(dead_letters.topic, 2) if (origin := Origin.of(letter.headers))]
    assert reasons == ["schön", "?" + ("long" * 250)[:999]]
    labels = {"topic": dead_letters.topic, "reason": "schön"}
    assert registry.get_sample_value("pulse_kafka_dead_letters_total", labels) == 1


def test_an_event_of_nothing_can_be_set_aside(config: KafkaConfig, topic: str, read_all: ReadAll) -> None:
    with DeadLetters(config, topic) as dead_letters:
        dead_letters.send(Record(topic, 0, 0, -1, None, None, []), "empty")
    [letter] = read_all(dead_letters.topic, 1)
    assert (letter.key, letter.value) == (None, None)
    assert Origin.of(letter.headers) == ("empty", topic, 0, 0, -1)


def test_headers_of_others_are_no_origin() -> None:
    assert Origin.of([("dead-letter-reason", b"x"), ("other", None)]) is None
    ours = Origin("x", "listens", 0, 0, 0).headers()
    assert Origin.of([*ours, ("dead-letter-offset", b"\xff")]) is None


def test_without_its_topic_there_are_no_dead_letters(config: KafkaConfig) -> None:
    with pytest.raises(UnknownTopicError, match=r"nowhere\.dead-letters"):
        DeadLetters(replace(config, connect_timeout=0.5), "nowhere")
