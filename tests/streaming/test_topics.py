"""Whose clock a topic keeps."""

from __future__ import annotations

import logging
import time

import pytest
from stream_reference import read_topic
from streams import unique

from music_pulse.embedded.broker import Endpoint
from streaming.client import BytesSerializer, KafkaConfig, Producer, Topic, ensure_topics, listen_topics
from streaming.topics import warn_of_producers_clocks


@pytest.fixture
def config(broker: Endpoint) -> KafkaConfig:
    return KafkaConfig(broker.bootstrap)


PRODUCERS_TIME = {"message.timestamp.type": "CreateTime"}


def test_listens_carry_the_broker_s_time_whatever_their_producer_says(config: KafkaConfig) -> None:
    listens, _ = listen_topics(config, unique("listens"), 1)
    # Kept for ever: an event of 1970 would go as soon as the broker looks for what is older than a week.
    others = Topic(unique("others"), 1, config=PRODUCERS_TIME | {"retention.ms": "-1"})
    ensure_topics(config, [listens, others])
    began = time.time()
    for topic in (listens, others):
        with Producer(config, topic.name, BytesSerializer()) as producer:
            producer.send("ann", b"{}", timestamp_ms=7)
    [landed], [other] = (read_topic(config, topic.name) for topic in (listens, others))
    assert landed.timestamp_ms >= began * 1000 - 1
    assert other.timestamp_ms == 7


def test_a_topic_of_producers_clocks_is_told_in_one_line(config: KafkaConfig, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = unique("listens"), unique("listens")
    ensure_topics(config, [*listen_topics(config, good, 1), Topic(bad, 1, config=PRODUCERS_TIME)])
    caplog.set_level(logging.WARNING, "streaming")

    def told() -> list[str]:
        """Clients of other tests may still have something to say."""
        return [record.getMessage() for record in caplog.records if record.name == "streaming.topics"]

    warn_of_producers_clocks(config, good)
    warn_of_producers_clocks(config, unique("missing"))
    assert told() == []
    warn_of_producers_clocks(config, bad)
    [message] = told()
    assert f"topic {bad} keeps its producers' time" in message
