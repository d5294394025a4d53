"""The embedded broker: its life, its locks, and what survives a kill."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from music_pulse.embedded import broker
from music_pulse.embedded.broker import EmbeddedBroker, Endpoint
from music_pulse.errors import BrokerError, ConfigurationError

ROOT = Path(__file__).resolve().parents[3]
JAR_CACHE = ROOT / ".cache" / "jars"

CLIENT = """
import sys
from pathlib import Path
from music_pulse.embedded import broker
with broker.running(Path(sys.argv[1]), jar_cache=Path(sys.argv[2])) as endpoint:
    print(endpoint.bootstrap, endpoint.cluster_id, flush=True)
    sys.stdin.readline()
"""

Launch = Callable[[Path], "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def formatted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder whose broker was started and stopped once; nobody starts it again."""
    home = tmp_path_factory.mktemp("formatted")
    with broker.running(home, jar_cache=JAR_CACHE):
        pass
    return home


@pytest.fixture
def fresh_home(tmp_path: Path) -> Iterator[Path]:
    """A home folder (of an awkward name) that is yet to be made; its broker is stopped at the end."""
    yield tmp_path / "it's my home, with blanks"
    broker.shut_down(tmp_path / "it's my home, with blanks")


@pytest.fixture
def home(formatted: Path, fresh_home: Path) -> Path:
    """The same after a first start."""
    shutil.copytree(formatted, fresh_home)
    (fresh_home / "kafka" / "ports").unlink()
    return fresh_home


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Start commands that use the broker of a home; all are gone at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(home: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CLIENT, str(home), str(JAR_CACHE)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def server(home: Path) -> EmbeddedBroker:
    return EmbeddedBroker(home, JAR_CACHE)


def said(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def finish(process: subprocess.Popen[str]) -> int:
    process.communicate("\n", timeout=60)
    return process.returncode


def pid_of(home: Path) -> int:
    return int((home / "kafka" / "server.pid").read_text())


def make_topic(endpoint: Endpoint, name: str = "songs") -> None:
    admin = AdminClient({"bootstrap.servers": endpoint.bootstrap})
    admin.create_topics([NewTopic(name, 1)])[name].result(30)


def send(endpoint: Endpoint, values: list[bytes], topic: str = "songs") -> None:
    """Send, and wait until all are acknowledged."""
    failures: list[Any] = []
    producer = Producer({"bootstrap.servers": endpoint.bootstrap, "enable.idempotence": True})
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: error and failures.append(error))
    assert producer.flush(30) == 0
    assert failures == []


def read(endpoint: Endpoint, topic: str = "songs") -> list[bytes | None]:
    """Read all committed events."""
    options: dict[str, Any] = {"bootstrap.servers": endpoint.bootstrap, "group.id": "test"}
    consumer = Consumer({**options, "enable.auto.commit": False, "enable.partition.eof": True})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        found: list[bytes | None] = []
        while True:
            [message] = consumer.consume(1, timeout=30)
            error = message.error()
            if error is None:
                found.append(message.value())
            elif error.code() == KafkaError._PARTITION_EOF:
                return found
            else:
                assert error.retriable(), error
    finally:
        consumer.close()


def listeners(pid: int) -> set[str]:
    """Return the addresses (hexadecimal, as the kernel says them) on which a process listens."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(os.readlink(entry))
        except FileNotFoundError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].rpartition(":")[0])
    return found


def test_events_and_address_outlive_a_stop(home: Path) -> None:
    with broker.running(home, jar_cache=JAR_CACHE) as first:
        make_topic(first)
        send(first, [b"one", b"two"])
        assert listeners(pid_of(home)) <= {"0100007F", "0000000000000000FFFF00000100007F"}
    assert not server(home).is_running()
    assert (home / "kafka" / "data" / ".kafka_cleanshutdown").exists()
    with broker.running(home, jar_cache=JAR_CACHE) as second:
        assert second == first
        assert read(second) == [b"one", b"two"]


def test_a_killed_broker_loses_no_acknowledged_event(home: Path) -> None:
    values = [b"%d" % number for number in range(20_000)]
    endpoint = broker.keep_up(home, jar_cache=JAR_CACHE)
    make_topic(endpoint)
    send(endpoint, values)
    os.kill(pid_of(home), signal.SIGKILL)
    with broker.running(home, jar_cache=JAR_CACHE) as again:
        assert again == endpoint
        assert read(again) == values
        send(again, [b"one more"])
    assert server(home).is_running()
    assert broker.shut_down(home)
    assert not broker.shut_down(home)


def test_two_commands_share_one_and_the_last_one_stops_it(fresh_home: Path, launch: Launch) -> None:
    home = fresh_home
    first, second = launch(home), launch(home)
    assert said(first) == said(second) != []
    assert finish(first) == 0
    assert server(home).is_running()
    assert finish(second) == 0
    assert not server(home).is_running()


def test_a_killed_command_leaves_a_broker_that_the_next_one_uses_and_stops(home: Path, launch: Launch) -> None:
    client = launch(home)
    address = said(client)
    os.killpg(client.pid, signal.SIGKILL)
    client.wait()
    assert server(home).is_running()
    with broker.running(home, jar_cache=JAR_CACHE) as endpoint:
        assert list(endpoint) == address
    assert not server(home).is_running()


def test_a_taken_port_means_another_one_and_clients_are_told(home: Path) -> None:
    with broker.running(home, jar_cache=JAR_CACHE) as first:
        make_topic(first)
    host, port = first.bootstrap.split(":")
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((host, int(port)))
        other.listen()
        with broker.running(home, jar_cache=JAR_CACHE) as second:
            assert second.bootstrap != first.bootstrap
            assert second.cluster_id == first.cluster_id
            send(second, [b"one"])
            assert read(second) == [b"one"]


def test_another_port_when_the_bind_loses_a_race(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        ports = iter([taken])
        honest = broker.free_port
        monkeypatch.setattr(broker, "free_port", lambda: next(ports, None) or honest())
        with broker.running(home, jar_cache=JAR_CACHE) as endpoint:
            assert endpoint.bootstrap != f"127.0.0.1:{taken}"


def test_topics_are_made_on_purpose_only_and_transactions_work(home: Path) -> None:
    with broker.running(home, jar_cache=JAR_CACHE) as endpoint:
        producer = Producer({"bootstrap.servers": endpoint.bootstrap, "message.timeout.ms": 3000})
        producer.produce("nobody-made-it", b"lost")
        producer.flush(30)
        assert list(AdminClient({"bootstrap.servers": endpoint.bootstrap}).list_topics(timeout=30).topics) == []
        make_topic(endpoint)
        writer = Producer({"bootstrap.servers": endpoint.bootstrap, "transactional.id": "writer"})
        writer.init_transactions(30)
        for value, end in ((b"kept", writer.commit_transaction), (b"dropped", writer.abort_transaction)):
            writer.begin_transaction()
            writer.produce("songs", value)
            end(30)
        assert read(endpoint) == [b"kept"]


def test_what_a_killed_first_start_left_is_made_anew(fresh_home: Path) -> None:
    home = fresh_home
    (home / "kafka" / "data.new").mkdir(parents=True)
    (home / "kafka" / "data.new" / "meta.properties").write_text("version=1\n")
    (home / "kafka" / "server.pid").write_text(f"{os.getpid()}\n")
    with broker.running(home, jar_cache=JAR_CACHE) as endpoint:
        make_topic(endpoint)


def test_a_broker_that_hangs_is_killed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.keep_up(home, jar_cache=JAR_CACHE)
    os.kill(pid_of(home), signal.SIGSTOP)
    monkeypatch.setattr(broker, "_STOP_SECONDS", 0.1)
    assert broker.shut_down(home)
    assert not server(home).is_running()


def test_a_broker_that_cannot_start_says_why_in_one_line(home: Path) -> None:
    with broker.running(home, jar_cache=JAR_CACHE):
        pass
    path = home / "kafka" / "data" / "meta.properties"
    path.write_text(path.read_text().replace("node.id=1", "node.id=2"))
    with pytest.raises(BrokerError) as caught, broker.running(home, jar_cache=JAR_CACHE):
        pass
    assert "the embedded Kafka didn't start: " in str(caught.value)
    assert "node" in str(caught.value)
    assert "kafka.log" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not server(home).is_running()


def test_what_cannot_work_is_said_before_anything_starts(fresh_home: Path, tmp_path: Path) -> None:
    home = fresh_home
    with pytest.raises(BrokerError, match="no embedded Kafka runs in .*; start it with `pulse up --kafka`"):
        server(home).endpoint()
    with pytest.raises(ConfigurationError, match="set PULSE_JAR_CACHE"):
        EmbeddedBroker(home, tmp_path / "a:b")
    assert not broker.shut_down(home)
    assert not home.exists()
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file")
    with pytest.raises(BrokerError, match="the embedded Kafka can't use "):
        broker.keep_up(home, jar_cache=JAR_CACHE)
    home.unlink()


def test_a_stranger_on_the_port_is_not_taken_for_the_broker(home: Path, fresh_home: Path) -> None:
    with broker.running(home, jar_cache=JAR_CACHE) as endpoint:
        stranger = EmbeddedBroker(fresh_home.with_name("another home"))
        stranger.data.mkdir(parents=True)
        (stranger.data / "meta.properties").write_text("cluster.id=another\n")
        port = int(endpoint.bootstrap.split(":")[1])
        assert server(home)._serves(port)
        assert not stranger._serves(port)


def test_a_jvm_that_refuses_its_flags_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "JVM_FLAGS", ("-XX:+NoSuchFlag",))
    with pytest.raises(BrokerError, match="NoSuchFlag"), broker.running(home, jar_cache=JAR_CACHE):
        pass
