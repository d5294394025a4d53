"""How to reach Kafka: one frozen configuration, rendered to what each client wants."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from music_pulse.errors import ConfigurationError
from music_pulse.settings import Settings

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[^\s:/,\[\]]+):(\d{1,5})\Z")

_JAAS = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}


@dataclass(frozen=True, slots=True)
class KafkaConfig:
    """Where the brokers are and how to log in; times are in seconds. The password never shows in `repr`.

    `bootstrap` is `host:port,...`. Raises `ConfigurationError` for what can't work.
    """

    bootstrap: str
    security_protocol: str = "PLAINTEXT"
    ssl_cafile: Path | None = None
    sasl_mechanism: str = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    connect_timeout: float = 10.0
    delivery_timeout: float = 120.0
    max_event_bytes: int = 1_000_000
    """Largest event, key and headers included; a broker's own default is 1,048,588."""
    retention_days: int = 30
    """How long topics that we make keep their events."""
    client_id: str = "music-pulse"

    def __post_init__(self) -> None:
        for address in self.bootstrap.split(","):
            match = _ADDRESS.match(address.strip())
            if match is None or not 0 < int(match[2]) < 65536:
                raise ConfigurationError(f"PULSE_KAFKA_BOOTSTRAP: {address.strip()!r} is not host:port")
        if self.uses_sasl and not (self.sasl_username and self.sasl_password):
            raise ConfigurationError(
                f"PULSE_KAFKA_SECURITY_PROTOCOL={self.security_protocol} needs PULSE_KAFKA_SASL_USERNAME and _PASSWORD"
            )
        if self.uses_tls and self.ssl_cafile is not None and not self.ssl_cafile.is_file():
            raise ConfigurationError(f"PULSE_KAFKA_SSL_CAFILE: there is no file {self.ssl_cafile}")

    @classmethod
    def from_settings(cls, settings: Settings, bootstrap: str | None = None) -> KafkaConfig:
        """Take the settings; `bootstrap` is the embedded broker's address, used where they name no other."""
        address = settings.kafka_bootstrap or bootstrap
        if not address:
            raise ConfigurationError("no Kafka broker is known: start the embedded one, or set PULSE_KAFKA_BOOTSTRAP")
        password = settings.kafka_sasl_password
        return cls(
            bootstrap=address,
            security_protocol=settings.kafka_security_protocol,
            ssl_cafile=settings.kafka_ssl_cafile,
            sasl_mechanism=settings.kafka_sasl_mechanism,
            sasl_username=settings.kafka_sasl_username,
            sasl_password=password.get_secret_value() if password else None,
            connect_timeout=settings.kafka_connect_timeout,
            delivery_timeout=settings.kafka_delivery_timeout,
            retention_days=settings.kafka_retention_days,
        )

    @property
    def uses_sasl(self) -> bool:
        """Whether a login is needed."""
        return self.security_protocol.startswith("SASL_")

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.security_protocol.endswith("SSL")

    def kafka_python(self) -> dict[str, Any]:
        """Return the keywords with which every client of kafka-python connects."""
        options: dict[str, Any] = {
            "bootstrap_servers": [address.strip() for address in self.bootstrap.split(",")],
            "client_id": self.client_id,
            "security_protocol": self.security_protocol,
            "bootstrap_timeout_ms": int(self.connect_timeout * 1000),
            "reconnect_backoff_max_ms": 5_000,
            "allow_auto_create_topics": False,
        }
        if self.uses_tls and self.ssl_cafile is not None:
            options["ssl_cafile"] = str(self.ssl_cafile)
        if self.uses_sasl:
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_username
            options["sasl_plain_password"] = self.sasl_password
        return options

    def confluent(self) -> dict[str, Any]:
        """Return the properties with which every client of confluent-kafka connects."""
        options: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap,
            "client.id": self.client_id,
            "security.protocol": self.security_protocol,
            "reconnect.backoff.max.ms": 5_000,
        }
        if self.uses_tls and self.ssl_cafile is not None:
            options["ssl.ca.location"] = str(self.ssl_cafile)
        if self.uses_sasl:
            options["sasl.mechanism"] = self.sasl_mechanism
            options["sasl.username"] = self.sasl_username
            options["sasl.password"] = self.sasl_password
        return options

    def java(self) -> dict[str, str]:
        """Return the properties of Java clients; Spark wants them prefixed with `kafka.`."""
        options = {"bootstrap.servers": self.bootstrap, "security.protocol": self.security_protocol}
        if self.uses_tls and self.ssl_cafile is not None:
            options |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(self.ssl_cafile)}
        if self.uses_sasl:
            login = f"username={_quoted(self.sasl_username)} password={_quoted(self.sasl_password)}"
            options["sasl.mechanism"] = self.sasl_mechanism
            options["sasl.jaas.config"] = f"{_JAAS[self.sasl_mechanism]} required {login};"
        return options


def _quoted(text: str | None) -> str:
    escaped = (text or "").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
