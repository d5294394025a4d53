"""Which topic is it, and whose clock does it keep? Offsets mean something only for one incarnation of a topic."""

from __future__ import annotations

import logging

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]

from streaming.client.backoff import asked_again
from streaming.client.config import KafkaConfig
from streaming.client.connection import check
from streaming.client.errors import translated
from streaming.client.library_logs import LibrdkafkaLog

logger = logging.getLogger(__name__)


def topic_incarnation(config: KafkaConfig, topic: str) -> str:
    """Return what names this topic for good, `<id of the cluster>/<id of the topic>`: one made anew gets another.

    Tries for `config.delivery_timeout` seconds; raises `StreamError`.
    """
    cluster = check(config, [topic]).cluster_id
    admin = AdminClient(config.confluent(), logger=LibrdkafkaLog())

    def ask() -> str:
        found = admin.describe_topics(TopicCollection([topic]), request_timeout=config.connect_timeout)
        return f"{cluster}/{found[topic].result().topic_id}"

    try:
        return asked_again(ask, KafkaError.retriable, config.delivery_timeout)
    except KafkaException as error:
        raise translated(error, f"describing topic {topic}") from error


def warn_of_producers_clocks(config: KafkaConfig, topic: str) -> None:
    """Warn, in a line, if the events of `topic` carry their producers' time and not the broker's.

    Then a wrong clock can't be told from a right one, and lateness isn't what it seems. Says nothing where we may not
    ask, or nobody answers in `config.connect_timeout` seconds: it is only a warning.
    """
    admin = AdminClient(config.confluent(), logger=LibrdkafkaLog())
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    try:
        found = admin.describe_configs([resource], request_timeout=config.connect_timeout)[resource].result()
    except KafkaException as error:
        logger.debug("the configuration of topic %s can't be read: %s", topic, error)
        return
    if found["message.timestamp.type"].value != "LogAppendTime":
        logger.warning(
            "topic %s keeps its producers' time: clocks that run ahead are not told apart; set its"
            " message.timestamp.type=LogAppendTime",
            topic,
        )
