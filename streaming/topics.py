"""Which topic is it? Offsets kept outside Kafka mean something only for one incarnation of a topic."""

from __future__ import annotations

import time

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from streaming.client.backoff import delays
from streaming.client.config import KafkaConfig
from streaming.client.connection import check
from streaming.client.errors import translated
from streaming.client.library_logs import LibrdkafkaLog


def topic_incarnation(config: KafkaConfig, topic: str) -> str:
    """Return what names this topic for good, `<id of the cluster>/<id of the topic>`: one made anew gets another.

    Tries for `config.delivery_timeout` seconds; raises `StreamError`.
    """
    cluster = check(config, [topic]).cluster_id
    admin = AdminClient(config.confluent(), logger=LibrdkafkaLog())
    deadline = time.monotonic() + config.delivery_timeout
    for delay in delays():
        future = admin.describe_topics(TopicCollection([topic]), request_timeout=config.connect_timeout)[topic]
        try:
            return f"{cluster}/{future.result().topic_id}"
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() + delay > deadline:
                raise translated(error, f"describing topic {topic}") from error
            time.sleep(delay)
    raise AssertionError("delays never end")
