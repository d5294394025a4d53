from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]
from streams import unique

from music_pulse.embedded.broker import Endpoint
from music_pulse.settings import load_settings
from streaming.client import KafkaConfig, StreamError, Topic, check, ensure_topics, listen_topics


def test_topics_are_made_once_whoever_asks(config: KafkaConfig) -> None:
    topics = listen_topics(config, unique("listens"), 2)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: ensure_topics(config, topics), range(4)))
    assert sorted(sum(made, [])) == sorted(topic.name for topic in topics)
    found = check(config).topics
    assert [found[topic.name] for topic in topics] == [2, 1]


def test_events_are_kept_as_long_as_the_settings_say(broker: Endpoint) -> None:
    config = KafkaConfig.from_settings(load_settings(kafka_bootstrap=broker.bootstrap, kafka_retention_days=3))
    names = ensure_topics(config, listen_topics(config, unique("listens"), 1))
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
    admin = AdminClient(config.confluent())
    found = admin.describe_configs(resources)
    assert [future.result()["retention.ms"].value for future in found.values()] == ["259200000"] * 2


def test_a_topic_that_is_there_stays_as_it_is(config: KafkaConfig) -> None:
    name = unique("listens")
    assert ensure_topics(config, [Topic(name, 2)]) == [name]
    assert ensure_topics(config, [Topic(name, 5)]) == []
    assert check(config).topics[name] == 2


def test_what_the_broker_refuses_is_told_by_name(config: KafkaConfig) -> None:
    name = unique("listens")
    with pytest.raises(StreamError, match=f"making topic {name} failed"):
        ensure_topics(config, [Topic(name, 1, replication=3)])
    with pytest.raises(StreamError, match=f"making topic {name} failed"):
        ensure_topics(config, [Topic(name, 1, config={"no.such.setting": "1"})])
