"""A schema registry that speaks Confluent's API (Confluent's own, Apicurio, Karapace, Redpanda)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from music_pulse.errors import ConfigurationError
from music_pulse.logs import without_secrets
from music_pulse.settings import Settings
from streaming.client.errors import RegistryError

T = TypeVar("T")

Compatibility = Literal["BACKWARD", "FORWARD", "FULL", "NONE"]


@dataclass(frozen=True, slots=True)
class RegistryConfig:
    """Where the registry is and how to log in; `timeout` in seconds. The password never shows in `repr`."""

    url: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    timeout: float = 10.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigurationError("PULSE_SCHEMA_REGISTRY_URL must start with http:// or https://")

    @classmethod
    def from_settings(cls, settings: Settings) -> RegistryConfig:
        """Take the settings; `ConfigurationError` if they name no registry."""
        if not settings.schema_registry_url:
            raise ConfigurationError("PULSE_KAFKA_ENCODING=avro needs PULSE_SCHEMA_REGISTRY_URL")
        password = settings.schema_registry_password
        return cls(
            url=settings.schema_registry_url,
            username=settings.schema_registry_username,
            password=password.get_secret_value() if password else None,
            timeout=settings.kafka_connect_timeout,
        )


class Registry:
    """Asks the registry. Everything raises `RegistryError`: one line, after two short retries."""

    def __init__(self, config: RegistryConfig) -> None:
        self._config = config
        options: dict[str, Any] = {
            "url": config.url,
            "timeout": config.timeout,
            "max.retries": 2,
            "retries.wait.ms": 100,
            "retries.max.wait.ms": 1_000,
        }
        if config.username is not None:
            options["basic.auth.user.info"] = f"{config.username}:{config.password or ''}"
        self._client = SchemaRegistryClient(options)

    def register(self, subject: str, schema: str) -> int:
        """Return the id of an Avro schema under `subject`, as a new version if it is new.

        Refused if it breaks the subject's compatibility.
        """
        return self._asked(
            f"registering a schema of {subject}",
            lambda: self._client.register_schema(subject, Schema(schema, "AVRO")),
        )

    def schema(self, schema_id: int) -> str:
        """Return the Avro schema of this id, as JSON text."""
        text = self._asked(f"reading schema {schema_id}", lambda: self._client.get_schema(schema_id).schema_str)
        if text is None:
            raise RegistryError(f"schema {schema_id} of {self._address} is empty")
        return text

    def set_compatibility(self, subject: str, level: Compatibility) -> None:
        """Say which changes of `subject` are refused. FULL: old readers read new events, and new ones old events."""
        self._asked(f"setting the compatibility of {subject}", lambda: self._client.set_compatibility(subject, level))

    @property
    def _address(self) -> str:
        return without_secrets(self._config.url)

    def _asked(self, doing: str, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except SchemaRegistryError as error:
            text = " ".join(str(error.error_message or "no such thing").split())
            hint = "" if error.http_status_code in (409, 422) else "; check PULSE_SCHEMA_REGISTRY_URL and the login"
            raise RegistryError(
                f"{doing} failed: {self._address} answered {error.http_status_code}: {text}{hint}",
                status=error.http_status_code,
            ) from error
        except Exception as error:  # of whichever HTTP library the client uses: there was no answer
            raise RegistryError(
                f"{doing} failed: {self._address} doesn't answer ({' '.join(str(error).split())});"
                " check PULSE_SCHEMA_REGISTRY_URL"
            ) from error
