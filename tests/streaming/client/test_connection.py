from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from music_pulse.embedded.broker import Endpoint
from streaming.client import BrokerUnreachableError, KafkaConfig, UnknownTopicError, check, cluster_id


def test_a_cluster_that_answers_tells_its_id_and_topics(config: KafkaConfig, broker: Endpoint, topic: str) -> None:
    cluster = check(config, [topic])
    assert cluster.cluster_id == cluster_id(config) == broker.cluster_id
    assert cluster.topics[topic] == 3


def test_a_missing_topic_is_named(config: KafkaConfig, topic: str) -> None:
    with pytest.raises(UnknownTopicError, match=r"no topic nowhere \(or hides it"):
        check(replace(config, connect_timeout=0.5), [topic, "nowhere"])


@pytest.fixture
def deaf_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_nobody_there_is_told_in_one_line_with_the_cause(deaf_port: int) -> None:
    config = KafkaConfig(f"127.0.0.1:{deaf_port}", connect_timeout=0.5)
    with pytest.raises(BrokerUnreachableError) as caught:
        check(config)
    assert f"127.0.0.1:{deaf_port} answered in 0.5 s" in str(caught.value)
    assert "Connection refused" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_never_answers_is_given_up(deaf_port: int) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with pytest.raises(BrokerUnreachableError, match=r"answered in 0\.5 s"):
            check(KafkaConfig(f"127.0.0.1:{server.getsockname()[1]}", connect_timeout=0.5))


def test_one_dead_address_of_several_does_not_matter(broker: Endpoint, deaf_port: int) -> None:
    assert check(KafkaConfig(f"127.0.0.1:{deaf_port},{broker.bootstrap}")).cluster_id == broker.cluster_id


def test_encryption_that_the_broker_does_not_speak_is_told_as_such(broker: Endpoint) -> None:
    with pytest.raises(BrokerUnreachableError, match="PULSE_KAFKA_SECURITY_PROTOCOL"):
        check(KafkaConfig(broker.bootstrap, security_protocol="SSL", connect_timeout=0.5))
