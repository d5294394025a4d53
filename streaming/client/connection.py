"""Is there a cluster, and may we in? One bounded question, whose answer names the cause."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from streaming.client.backoff import delays
from streaming.client.config import KafkaConfig
from streaming.client.errors import AuthenticationError, BrokerUnreachableError, UnknownTopicError, kind_of, reason_of
from streaming.client.library_logs import LibrdkafkaLog

_FIRST_ATTEMPT_SECONDS = 0.25
_TOPIC_SECONDS = 3.0
_NO_REASON = frozenset({KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._TIMED_OUT})


class Cluster(NamedTuple):
    """A cluster that answered: its id, and the number of partitions by topic."""

    cluster_id: str
    topics: dict[str, int]


def check(config: KafkaConfig, topics: Iterable[str] = ()) -> Cluster:
    """Return the cluster; raise what keeps us out, at most `config.connect_timeout` seconds later.

    The clients themselves tell a wrong password, a TLS mismatch and a dead broker all as a time-out, after 30 s.
    Raises `BrokerUnreachableError`, `AuthenticationError`, or `UnknownTopicError` if one of `topics` is missing.
    """
    wanted = frozenset(topics)
    began = time.monotonic()
    seen: list[KafkaError] = []
    options: dict[str, Any] = {**config.confluent(), "error_cb": seen.append}
    admin = AdminClient(options, logger=LibrdkafkaLog())
    patience = _FIRST_ATTEMPT_SECONDS  # short at first, since a refusal is only seen between attempts
    for delay in delays():
        left = config.connect_timeout - (time.monotonic() - began)
        try:
            metadata = admin.list_topics(timeout=max(_FIRST_ATTEMPT_SECONDS, min(patience, left)))
        except KafkaException as error:
            admin.poll(0)
            _give_up(config, [*seen, error.args[0]], is_last=left <= patience)
            patience *= 2
        else:
            found = {name: len(topic.partitions) for name, topic in metadata.topics.items()}
            if wanted <= found.keys():
                return Cluster(metadata.cluster_id or "", found)
            if time.monotonic() - began > min(_TOPIC_SECONDS, left):  # a new topic takes a moment to be known
                missing = ", ".join(sorted(wanted - found.keys()))
                raise UnknownTopicError(
                    f"{config.bootstrap} has no topic {missing} (or hides it from us): create it, check"
                    " PULSE_KAFKA_TOPIC, or ask the cluster's owner"
                )
        time.sleep(max(0.0, min(delay, left)))
    raise AssertionError("delays never end")


def _give_up(config: KafkaConfig, errors: list[KafkaError], *, is_last: bool) -> None:
    """Raise what `errors` mean: a refused login at once, everything else when time is up."""
    for error in errors:
        kind = kind_of(error)
        if kind.error is AuthenticationError:
            who = f"{config.sasl_username} ({config.sasl_mechanism})"
            raise AuthenticationError(f"{config.bootstrap} refuses {who}: {_cause(error)}; {kind.hint}")
    if is_last:
        telling = [error for error in errors if error.code() not in _NO_REASON or "/bootstrap: " in error.str()]
        cause = _cause(telling[0]) if telling else "the connection was closed"
        if telling and not config.uses_tls and "PLAINTEXT broker" not in cause:
            hint = kind_of(telling[0]).hint
        else:  # what a listener that wants TLS or a login does to those who speak plain text
            hint = kind_of(KafkaError(KafkaError._SSL)).hint
        raise BrokerUnreachableError(
            f"no Kafka broker at {config.bootstrap} answered in {config.connect_timeout:g} s: {cause}; {hint}"
        )


def _cause(error: KafkaError) -> str:
    """Leave out librdkafka's prefix (its name of the broker) and suffix (its state)."""
    text = reason_of(error).split(" (after ")[0]
    return text.partition("/bootstrap: ")[2] or text
