from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException
from kafka import errors as kafka_errors

from music_pulse.errors import PulseError
from streaming.client import errors


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KafkaException(KafkaError(KafkaError._AUTHENTICATION)), errors.AuthenticationError),
        (KafkaError(KafkaError._ALL_BROKERS_DOWN), errors.BrokerUnreachableError),
        (KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), errors.AuthorizationError),
        (KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), errors.UnknownTopicError),
        (KafkaError(KafkaError._FENCED), errors.FencedError),
        (KafkaError(KafkaError._BAD_MSG), errors.StreamError),
        (kafka_errors.SaslAuthenticationFailedError("no"), errors.AuthenticationError),
        (kafka_errors.KafkaTimeoutError("late"), errors.BrokerUnreachableError),
        (kafka_errors.GroupAuthorizationFailedError("g"), errors.AuthorizationError),
        (kafka_errors.UnknownTopicOrPartitionError(), errors.UnknownTopicError),
        (kafka_errors.ProducerFencedError(), errors.FencedError),
        (kafka_errors.CorruptRecordError(), errors.StreamError),
        (ValueError("odd"), errors.StreamError),
    ],
)
def test_errors_of_both_clients_become_ours(error: Exception, expected: type[errors.StreamError]) -> None:
    assert type(errors.translated(error, "sending")) is expected


def test_an_error_is_one_line_that_says_what_failed_and_what_to_do() -> None:
    told = errors.translated(kafka_errors.KafkaTimeoutError("two\nlines"), "sending")
    assert str(told).startswith("sending failed: ")
    assert str(told).endswith("is the broker up, and PULSE_KAFKA_BOOTSTRAP right?")
    assert "\n" not in str(told)


def test_every_error_is_one_that_the_command_can_tell() -> None:
    assert issubclass(errors.StreamError, PulseError)
    assert errors.StreamError.exit_code == 6
    assert errors.DeliveryError("lost", undelivered=3).undelivered == 3
