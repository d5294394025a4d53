"""What can go wrong between us and Kafka: one line each that says what to do; and the clients' own errors as these."""

from __future__ import annotations

from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException
from kafka import errors as kafka_errors

from music_pulse.errors import PulseError


class StreamError(PulseError):
    """Any failure of the stream."""

    exit_code = 6


class BrokerUnreachableError(StreamError):
    """No broker answered in time: wrong address, broker down, TLS that doesn't fit."""


class AuthenticationError(StreamError):
    """The broker refuses the login."""


class AuthorizationError(StreamError):
    """The login is right, but not allowed to do this."""


class UnknownTopicError(StreamError):
    """A topic that doesn't exist, or that the login may not see."""


class SerializationError(StreamError):
    """A value that can't be encoded, or bytes that can't be decoded. Trying again doesn't help."""


class RegistryError(StreamError):
    """The schema registry is out of reach, or refuses a schema; `status` is its HTTP status, if it answered."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class DeliveryError(StreamError):
    """Events that didn't reach the topic; `undelivered` says how many."""

    def __init__(self, message: str, *, undelivered: int) -> None:
        super().__init__(message)
        self.undelivered = undelivered


class TransactionError(StreamError):
    """A transaction that could not be committed: nothing of it is visible to committed reads."""


class FencedError(TransactionError):
    """Another producer has taken over this transactional id; this one must end."""


class CommitError(StreamError):
    """Offsets that could not be committed: what was read since the last commit will be read again."""


class Kind(NamedTuple):
    """How errors of one sort are told: as which class, and what the reader should do."""

    error: type[StreamError]
    hint: str


_UNREACHABLE = Kind(BrokerUnreachableError, "is the broker up, and PULSE_KAFKA_BOOTSTRAP right?")
_LOGIN = Kind(AuthenticationError, "check PULSE_KAFKA_SASL_USERNAME, _PASSWORD and _MECHANISM")
_TLS = Kind(BrokerUnreachableError, "check PULSE_KAFKA_SECURITY_PROTOCOL and PULSE_KAFKA_SSL_CAFILE")
_FORBIDDEN = Kind(AuthorizationError, "ask the cluster's owner for the right")
_TOPIC = Kind(UnknownTopicError, "create the topic, or check PULSE_KAFKA_TOPIC")
_FENCED = Kind(FencedError, "another producer has taken over; end this one")
_SIZE = Kind(StreamError, "the topic takes no event of this size (max.message.bytes)")
_OTHER = Kind(StreamError, "see the broker's log")

_BY_CODE = {
    KafkaError._AUTHENTICATION: _LOGIN,
    KafkaError.SASL_AUTHENTICATION_FAILED: _LOGIN,
    KafkaError.UNSUPPORTED_SASL_MECHANISM: _LOGIN,
    KafkaError._SSL: _TLS,
    KafkaError._RESOLVE: _UNREACHABLE,
    KafkaError._TRANSPORT: _UNREACHABLE,
    KafkaError._ALL_BROKERS_DOWN: _UNREACHABLE,
    KafkaError._TIMED_OUT: _UNREACHABLE,
    KafkaError._MSG_TIMED_OUT: _UNREACHABLE,
    KafkaError.BROKER_NOT_AVAILABLE: _UNREACHABLE,
    KafkaError.TOPIC_AUTHORIZATION_FAILED: _FORBIDDEN,
    KafkaError.GROUP_AUTHORIZATION_FAILED: _FORBIDDEN,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: _FORBIDDEN,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: _FORBIDDEN,
    KafkaError._UNKNOWN_TOPIC: _TOPIC,
    KafkaError._UNKNOWN_PARTITION: _TOPIC,
    KafkaError.UNKNOWN_TOPIC_OR_PART: _TOPIC,
    KafkaError.MSG_SIZE_TOO_LARGE: _SIZE,
    KafkaError.RECORD_LIST_TOO_LARGE: _SIZE,
    KafkaError._FENCED: _FENCED,
    KafkaError.PRODUCER_FENCED: _FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH: _FENCED,
}

_BY_CLASS: tuple[tuple[type[Exception], Kind], ...] = (
    (kafka_errors.SaslAuthenticationFailedError, _LOGIN),
    (kafka_errors.UnsupportedSaslMechanismError, _LOGIN),
    (kafka_errors.AuthorizationError, _FORBIDDEN),
    (kafka_errors.UnknownTopicOrPartitionError, _TOPIC),
    (kafka_errors.MessageSizeTooLargeError, _SIZE),
    (kafka_errors.RecordListTooLargeError, _SIZE),
    (kafka_errors.ProducerFencedError, _FENCED),
    (kafka_errors.InvalidProducerEpochError, _FENCED),
    (kafka_errors.KafkaTimeoutError, _UNREACHABLE),
    (kafka_errors.KafkaConnectionError, _UNREACHABLE),
)


def kind_of(error: Exception | KafkaError) -> Kind:
    """Tell which sort of failure an error of either client is."""
    if isinstance(error, KafkaException):
        error = error.args[0]
    if isinstance(error, KafkaError):
        return _BY_CODE.get(error.code(), _OTHER)
    return next((kind for wanted, kind in _BY_CLASS if isinstance(error, wanted)), _OTHER)


def reason_of(error: Exception | KafkaError) -> str:
    """Say in one line what an error of either client says."""
    if isinstance(error, KafkaException):
        error = error.args[0]
    text = error.str() if isinstance(error, KafkaError) else str(error) or type(error).__name__
    return " ".join(text.split()).removesuffix(": None")  # kafka-python's for "nothing to add"


def translated(error: Exception | KafkaError, doing: str) -> StreamError:
    """Return the error of ours that says what failed `doing` something, and what to do."""
    kind = kind_of(error)
    return kind.error(f"{doing} failed: {reason_of(error)}; {kind.hint}")
