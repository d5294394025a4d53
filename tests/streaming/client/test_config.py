from __future__ import annotations

from pathlib import Path

import pytest

from music_pulse.errors import ConfigurationError
from music_pulse.settings import load_settings
from streaming.client import KafkaConfig, RegistryConfig

SASL = {"security_protocol": "SASL_SSL", "sasl_username": "ann", "sasl_password": 'hush"\\hush'}


def test_a_plain_configuration_says_where_and_no_more() -> None:
    config = KafkaConfig("a:9092, [::1]:9093")
    assert config.kafka_python() == {
        "bootstrap_servers": ["a:9092", "[::1]:9093"],
        "client_id": "music-pulse",
        "security_protocol": "PLAINTEXT",
        "bootstrap_timeout_ms": 10_000,
        "reconnect_backoff_max_ms": 5_000,
        "allow_auto_create_topics": False,
    }
    assert config.confluent() == {
        "bootstrap.servers": "a:9092, [::1]:9093",
        "client.id": "music-pulse",
        "security.protocol": "PLAINTEXT",
        "reconnect.backoff.max.ms": 5_000,
    }
    assert config.java() == {"bootstrap.servers": "a:9092, [::1]:9093", "security.protocol": "PLAINTEXT"}


def test_login_and_encryption_reach_every_client(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    config = KafkaConfig("a:9092", ssl_cafile=ca, **SASL)  # type: ignore[arg-type]
    python, confluent, java = config.kafka_python(), config.confluent(), config.java()
    assert [python[name] for name in ("security_protocol", "ssl_cafile", "sasl_mechanism")] == [
        "SASL_SSL",
        str(ca),
        "SCRAM-SHA-512",
    ]
    assert (python["sasl_plain_username"], python["sasl_plain_password"]) == ("ann", 'hush"\\hush')
    assert (confluent["ssl.ca.location"], confluent["sasl.mechanism"]) == (str(ca), "SCRAM-SHA-512")
    assert (confluent["sasl.username"], confluent["sasl.password"]) == ("ann", 'hush"\\hush')
    assert (java["ssl.truststore.type"], java["ssl.truststore.location"]) == ("PEM", str(ca))
    assert java["sasl.jaas.config"] == (
        'org.apache.kafka.common.security.scram.ScramLoginModule required username="ann" password="hush\\"\\\\hush";'
    )


def test_passwords_never_show() -> None:
    config = KafkaConfig("a:9092", **SASL)  # type: ignore[arg-type]
    registry = RegistryConfig("http://a", "ann", "hush")
    assert "hush" not in f"{config!r} {config} {registry!r} {registry}"


@pytest.mark.parametrize("address", ["", "a", "a:", "a:0", "a:70000", "http://a:1", "a:1,", "::1:9092"])
def test_an_address_that_is_none_is_refused_by_name(address: str) -> None:
    with pytest.raises(ConfigurationError, match="PULSE_KAFKA_BOOTSTRAP"):
        KafkaConfig(address)


@pytest.mark.parametrize("missing", ["sasl_username", "sasl_password"])
def test_a_login_without_its_half_is_refused(missing: str) -> None:
    with pytest.raises(ConfigurationError, match="PULSE_KAFKA_SASL_USERNAME"):
        KafkaConfig("a:1", **{**SASL, missing: None})  # type: ignore[arg-type]


def test_a_certificate_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="PULSE_KAFKA_SSL_CAFILE"):
        KafkaConfig("a:1", security_protocol="SSL", ssl_cafile=tmp_path / "none.pem")


def test_settings_become_a_configuration() -> None:
    settings = load_settings(
        kafka_bootstrap="far:9093",
        kafka_security_protocol="SASL_PLAINTEXT",
        kafka_sasl_mechanism="PLAIN",
        kafka_sasl_username="ann",
        kafka_sasl_password="hush",
        kafka_connect_timeout=3,
        kafka_delivery_timeout=4,
    )
    assert KafkaConfig.from_settings(settings, "embedded:1") == KafkaConfig(
        bootstrap="far:9093",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_username="ann",
        sasl_password="hush",
        connect_timeout=3,
        delivery_timeout=4,
    )


def test_the_embedded_broker_serves_where_the_settings_name_none() -> None:
    assert KafkaConfig.from_settings(load_settings(), "127.0.0.1:1234").bootstrap == "127.0.0.1:1234"
    with pytest.raises(ConfigurationError, match="PULSE_KAFKA_BOOTSTRAP"):
        KafkaConfig.from_settings(load_settings())


def test_a_registry_must_be_named_and_be_http() -> None:
    with pytest.raises(ConfigurationError, match="PULSE_SCHEMA_REGISTRY_URL"):
        RegistryConfig.from_settings(load_settings())
    with pytest.raises(ConfigurationError, match="PULSE_SCHEMA_REGISTRY_URL"):
        RegistryConfig("registry:8080")
    settings = load_settings(schema_registry_url="http://a/b", schema_registry_username="ann")
    assert RegistryConfig.from_settings(settings) == RegistryConfig("http://a/b", "ann")
