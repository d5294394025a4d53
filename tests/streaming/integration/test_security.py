"""A broker that wants TLS, a login and rights: who has them gets in, nobody else, on no listener."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from music_pulse.embedded import broker as embedded
from music_pulse.embedded.broker import EmbeddedBroker, Endpoint
from music_pulse.errors import ConfigurationError
from streaming.client import (
    AuthenticationError,
    AuthorizationError,
    BrokerUnreachableError,
    BulkConsumer,
    BulkProducer,
    BytesSerializer,
    Consumer,
    KafkaConfig,
    Producer,
    StreamError,
    Topic,
    UnknownTopicError,
    check,
    ensure_topics,
)

pytestmark = pytest.mark.integration

OURS, THEIRS = "listens", "salaries"
PASSWORD = "correct horse battery staple"


class Secured(NamedTuple):
    """A running broker, and how its admin and an ordinary user reach it."""

    home: Path
    admin: KafkaConfig
    user: KafkaConfig


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, jar_cache: Path) -> Iterator[Secured]:
    """A broker with two topics and a user who may use one of them."""
    home = tmp_path_factory.mktemp("secured")
    with embedded.running(home, jar_cache=jar_cache, secure=True) as endpoint:
        login = EmbeddedBroker(home, jar_cache, secure=True).admin()
        admin = KafkaConfig(
            endpoint.bootstrap,
            security_protocol="SASL_SSL",
            ssl_cafile=login.cafile,
            sasl_username=login.username,
            sasl_password=login.password,
            connect_timeout=5,
            delivery_timeout=5,
        )
        ensure_topics(admin, [Topic(OURS, 1), Topic(THEIRS, 1)])
        let_in(admin, "ann", PASSWORD, OURS)
        yield Secured(home, admin, replace(admin, sasl_username="ann", sasl_password=PASSWORD))


def let_in(config: KafkaConfig, user: str, password: str, topic: str) -> None:
    """Make a login that may write and read one topic."""
    admin = AdminClient(config.confluent())
    scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    credential = UserScramCredentialUpsertion(user, scram, password.encode())
    admin.alter_user_scram_credentials([credential])[user].result(30)
    wanted = [
        (ResourceType.TOPIC, topic, AclOperation.READ),
        (ResourceType.TOPIC, topic, AclOperation.WRITE),
        (ResourceType.GROUP, "readers", AclOperation.READ),
    ]
    rules = [
        AclBinding(kind, name, ResourcePatternType.LITERAL, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
        for kind, name, operation in wanted
    ]
    for future in admin.create_acls(rules).values():
        future.result(30)


@pytest.mark.parametrize(("producer", "consumer"), [(Producer, Consumer), (BulkProducer, BulkConsumer)])
def test_the_right_password_gets_in(
    secured: Secured, producer: type[Producer[bytes]], consumer: type[Consumer]
) -> None:
    with producer(secured.user, OURS, BytesSerializer()) as sender:
        sender.send("ann", b"a secret song")
    with consumer(secured.user, [OURS], "readers") as reader:
        assert b"a secret song" in next(reader.batches()).values()


@pytest.mark.parametrize("wrong", [{"sasl_password": "wrong"}, {"sasl_username": "bob"}])
def test_a_wrong_login_is_refused(secured: Secured, wrong: dict[str, str]) -> None:
    with pytest.raises(AuthenticationError):
        check(replace(secured.user, **wrong))


def test_plain_text_is_refused(secured: Secured) -> None:
    plain = KafkaConfig(secured.user.bootstrap, connect_timeout=2)
    with pytest.raises(BrokerUnreachableError):
        check(plain)
    with pytest.raises(StreamError):
        check(replace(secured.user, security_protocol="SASL_PLAINTEXT", connect_timeout=2))


def test_tls_without_a_login_is_refused(secured: Secured) -> None:
    with pytest.raises(StreamError):
        check(replace(secured.user, security_protocol="SSL", connect_timeout=2))


def test_a_broker_that_another_authority_vouches_for_is_not_trusted(secured: Secured, tmp_path: Path) -> None:
    stranger = embedded.BrokerSecurity(tmp_path / "security")
    stranger.set_up()
    with pytest.raises(BrokerUnreachableError):
        check(replace(secured.user, ssl_cafile=stranger.cafile, connect_timeout=2))


def test_an_unlisted_topic_is_refused(secured: Secured) -> None:
    assert set(check(secured.admin).topics) >= {OURS, THEIRS}
    assert set(check(secured.user).topics) == {OURS}
    with pytest.raises(UnknownTopicError):
        Consumer(secured.user, [THEIRS], "readers")
    with pytest.raises(StreamError), BulkProducer(secured.user, THEIRS, BytesSerializer()) as sender:
        sender.send("ann", b"my own raise")
    with pytest.raises(AuthorizationError):
        ensure_topics(secured.user, [Topic("mine", 1)])


def test_the_controller_refuses_plain_text_and_who_has_not_logged_in(secured: Secured, broker: Endpoint) -> None:
    controller = controller_port(secured.home)
    assert not is_answered(plainly(controller))
    assert not is_answered(by_tls(controller, secured.user.ssl_cafile))
    assert is_answered(plainly(int(broker.bootstrap.split(":")[1])))


def controller_port(home: Path) -> int:
    return int((home / "kafka" / "ports").read_text().split()[1])


def plainly(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def by_tls(port: int, cafile: Path | None) -> socket.socket:
    return ssl.create_default_context(cafile=cafile).wrap_socket(plainly(port), server_hostname="127.0.0.1")


def is_answered(connection: socket.socket) -> bool:
    """Ask, without a login, for the names of all topics (Metadata, version 0); tell whether Kafka answers."""
    correlation = struct.pack("!i", 20_240_229)
    request = struct.pack("!hh", 3, 0) + correlation + struct.pack("!hi", -1, 0)
    with connection:
        connection.sendall(struct.pack("!i", len(request)) + request)
        try:
            return connection.makefile("rb").read(8)[4:] == correlation
        except ConnectionError:
            return False


def test_secrets_are_their_owners_alone(secured: Secured) -> None:
    private = [*(secured.home / "kafka" / "security").iterdir(), secured.home / "kafka" / "server.properties"]
    assert {path.stat().st_mode & 0o077 for path in private} == {0}
    assert not (secured.home / "kafka" / "format.arguments").exists()
    assert secured.admin.sasl_password not in (secured.home / "logs" / "kafka.log").read_text()


def test_logins_and_rights_outlive_a_restart(secured: Secured, jar_cache: Path) -> None:
    server = EmbeddedBroker(secured.home, jar_cache, secure=True)
    server.stop()
    server.start()
    check(secured.user, [OURS])
    with pytest.raises(AuthenticationError):
        check(replace(secured.user, sasl_password="wrong"))


def test_a_secured_broker_is_never_started_open(secured: Secured, jar_cache: Path) -> None:
    with pytest.raises(ConfigurationError, match="has logins; use another PULSE_HOME"):
        EmbeddedBroker(secured.home, jar_cache).start()
