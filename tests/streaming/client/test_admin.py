from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from streams import unique

from streaming.client import KafkaConfig, StreamError, Topic, check, ensure_topics, listen_topics


def test_topics_are_made_once_whoever_asks(config: KafkaConfig) -> None:
    topics = listen_topics(config, unique("listens"), 2)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: ensure_topics(config, topics), range(4)))
    assert sorted(sum(made, [])) == sorted(topic.name for topic in topics)
    found = check(config).topics
    assert [found[topic.name] for topic in topics] == [2, 1]


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
