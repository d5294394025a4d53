"""Topics: made if they aren't there, never changed or deleted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from streaming.client.config import KafkaConfig
from streaming.client.connection import check
from streaming.client.dead_letters import HEADROOM_BYTES, dead_letter_topic
from streaming.client.errors import translated
from streaming.client.library_logs import LibrdkafkaLog


@dataclass(frozen=True)
class Topic:
    """A topic to make. `replication` -1 is the cluster's default; `config` are the broker's topic settings."""

    name: str
    partitions: int
    replication: int = -1
    config: Mapping[str, str] = field(default_factory=dict)


def listen_topics(config: KafkaConfig, name: str, partitions: int, replication: int = -1) -> list[Topic]:
    """Return the topic of the listens and that of its dead letters, which may be a little larger.

    Listens carry the broker's time, whatever their producer says: against it a wrong clock is told. Both name people:
    they are kept for `config.retention_days`, whatever the brokers do by default.
    """
    largest = config.max_event_bytes + HEADROOM_BYTES
    retention = {"retention.ms": str(config.retention_days * 86_400_000)}
    return [
        Topic(name, partitions, replication, {"message.timestamp.type": "LogAppendTime", **retention}),
        Topic(
            dead_letter_topic(name), 1, replication, {"max.message.bytes": str(largest + HEADROOM_BYTES), **retention}
        ),
    ]


def ensure_topics(config: KafkaConfig, topics: Iterable[Topic]) -> list[str]:
    """Make those of `topics` that don't exist and return their names; the others stay as they are.

    Any number of callers may do it at once. Raises `StreamError`.
    """
    existing = check(config).topics
    wanted = [topic for topic in topics if topic.name not in existing]
    if not wanted:
        return []
    admin = AdminClient(config.confluent(), logger=LibrdkafkaLog())
    futures = admin.create_topics(
        [NewTopic(topic.name, topic.partitions, topic.replication, config=dict(topic.config)) for topic in wanted],
        request_timeout=config.connect_timeout,
    )
    made = []
    for name, future in futures.items():
        try:
            future.result()
            made.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise translated(error, f"making topic {name}") from error
    check(config, [topic.name for topic in wanted])
    return made


def cluster_id(config: KafkaConfig) -> str:
    """Return the cluster's id: offsets mean something only together with it."""
    return check(config).cluster_id
