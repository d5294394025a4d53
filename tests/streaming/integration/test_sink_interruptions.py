"""Whatever is killed or restarted under the sink: the table equals what the events sent come to, to the row."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers import listen, query
from stream_reference import assert_loads_add_up, expected_rows, landed_rows, read_topic
from streams import unique

from music_pulse import stack
from music_pulse.embedded.broker import EmbeddedBroker
from music_pulse.embedded.postgres import EmbeddedPostgres
from music_pulse.settings import Settings
from streaming import sinks
from streaming.archive import ListensArchive
from streaming.client import (
    BulkProducer,
    BytesSerializer,
    JsonSerializer,
    KafkaConfig,
    dead_letter_topic,
    ensure_topics,
    listen_topics,
)
from streaming.events import EventBuilder, event_key
from streaming.sinks import run_listens_sink

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[3]
START = 1_700_000_000
EVENTS, BAD = 900, 40
BATCH = 100

SINK = """
import os, signal, sys, threading
from music_pulse.settings import load_settings
from streaming import day_files, sinks

moment = sys.argv[1]
sinks.BATCH_RECORDS, sinks.BATCH_SECONDS = 100, 0.1
calls = []

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def dies(honest, before=False):
    def step(*args, **kwargs):
        calls.append(honest)
        if before and len(calls) == 3:
            die()
        result = honest(*args, **kwargs)
        if len(calls) == 3:
            die()
        return result
    return step

if moment == "before anything is written":
    sinks.write_load = dies(sinks.write_load, before=True)
if moment == "before the offsets are written":
    sinks.write_load = dies(sinks.write_load)
if moment == "before the commit, its dead letters sent":
    sinks.ListensSink._refuse = dies(sinks.ListensSink._refuse)
if moment == "after the commit":
    sinks.ListensSink.land = dies(sinks.ListensSink.land)
if moment == "while the archive is written":
    day_files.os.fsync = die

stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())

def landed(what):
    print(what.events, flush=True)
    if moment == "while the archive is written":
        stop.set()

sinks.run_listens_sink(load_settings(), stop=stop, progress=landed)
"""


class Stack(NamedTuple):
    """A Postgres and a broker that may be killed, for nobody else uses them."""

    home: Path
    postgres: EmbeddedPostgres
    broker: EmbeddedBroker


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, jar_cache: Path) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("interrupted")
    made = Stack(home, EmbeddedPostgres(home), EmbeddedBroker(home, jar_cache))
    with made.postgres.using(), made.broker.using():
        yield made
    made.postgres.stop()
    made.broker.stop()


@pytest.fixture
def settings(servers: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A database, a topic and an archive folder for one test."""
    monkeypatch.setattr(sinks, "BATCH_RECORDS", BATCH)
    monkeypatch.setattr(sinks, "BATCH_SECONDS", 0.1)
    values: dict[str, Any] = {
        "home": servers.home,
        "postgres_dbname": unique("pulse").replace("-", "_"),
        "kafka_topic": unique("listens"),
        "kafka_bootstrap": servers.broker.endpoint().bootstrap,
        "archive_dir": tmp_path / "archive",
    }
    with stack.warehouse(Settings(_env_file=None, **values)) as ready:  # type: ignore[call-arg]
        config = KafkaConfig.from_settings(ready)
        ensure_topics(config, listen_topics(config, ready.kafka_topic, 3))
        yield ready


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start sinks in processes of their own; all are gone at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(settings: Settings, moment: str = "never") -> subprocess.Popen[str]:
        login = settings.credentials("loader")
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PULSE_TARGET": "prod",
            "PULSE_POSTGRES_HOST": login.host,
            "PULSE_POSTGRES_PORT": str(login.port),
            "PULSE_POSTGRES_USER": login.user,
            "PULSE_POSTGRES_PASSWORD": login.password,
            "PULSE_POSTGRES_DBNAME": login.dbname,
            "PULSE_POSTGRES_SSLMODE": login.sslmode,
            "PULSE_KAFKA_TOPIC": settings.kafka_topic,
            "PULSE_KAFKA_GROUP": settings.kafka_group,
            "PULSE_KAFKA_BOOTSTRAP": settings.kafka_bootstrap or "",
            "PULSE_ARCHIVE_DIR": str(settings.archive_dir),
        }
        command = [sys.executable, "-c", SINK, moment]
        started.append(subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def sendings(seed: int) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
    """Return what is sent, and what of it is no listen: duplicates, better and worse ones, malformed and empty ones."""
    rng = random.Random(seed)
    listens = [
        listen(
            START + rng.randrange(EVENTS // 2) - rng.choice([0, 0, 86_400 * 2]), f"Track {number % 7}", "Artist",
            user=rng.choice(["ann", "bob", "cleo", "dan"]), album=rng.choice([None, "Album"]),
            ms=rng.choice([None, 180_000, 200_000]),
        )
        for number in range(EVENTS)
    ]  # fmt: skip
    built, refused = EventBuilder().build(listens, now=time.time())
    assert refused == []
    sent = [(event_key(event), JsonSerializer().serialize(event)) for event in built]
    bad = [b"", *(b'{"broken": %d' % number for number in range(BAD - 1))]
    sent += [(b"ann", value) for value in bad]
    rng.shuffle(sent)
    return sent, bad


def send(settings: Settings, sent: Sequence[tuple[bytes, bytes]]) -> None:
    with BulkProducer(KafkaConfig.from_settings(settings), settings.kafka_topic, BytesSerializer()) as producer:
        producer.send_many([key for key, _ in sent], [value for _, value in sent])


@contextmanager
def running_sink(settings: Settings) -> Iterator[None]:
    """Run the sink in a thread; what it raises is raised at the end."""
    stop = threading.Event()
    failures: list[Exception] = []

    def run() -> None:
        try:
            run_listens_sink(settings, stop=stop)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(120)
    assert not thread.is_alive()
    if failures:
        raise failures[0]


def events_landed(settings: Settings) -> int:
    if query(settings, "select to_regclass('raw.stream_loads') is not null") != [(True,)]:
        return 0
    [(count,)] = query(settings, "select coalesce(sum(events), 0)::integer from raw.stream_loads")
    return int(count)


def wait_for(settings: Settings, events: int) -> None:
    deadline = time.monotonic() + 120
    while events_landed(settings) < events:
        assert time.monotonic() < deadline, f"only {events_landed(settings)} of {events} events were landed"
        time.sleep(0.1)


def assert_all_is_there(settings: Settings, bad: Sequence[bytes]) -> None:
    """Check table, loads, dead letters and archive against what is in the topic."""
    config = KafkaConfig.from_settings(settings)
    records = read_topic(config, settings.kafka_topic)
    assert len(records) == EVENTS + BAD
    assert landed_rows(settings) == expected_rows(records, bad)
    assert_loads_add_up(settings, events=EVENTS + BAD, refused=BAD)
    letters = [letter.value for letter in read_topic(config, dead_letter_topic(settings.kafka_topic))]
    assert set(letters) == set(bad)
    assert len(letters) <= 2 * BAD
    assert ListensArchive(settings.credentials("loader"), settings.archive_dir / "listens").update() == 0
    assert archived_rows(settings) == len(landed_rows(settings))
    assert list(settings.archive_dir.glob("**/.*.new")) == []


def archived_rows(settings: Settings) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in settings.archive_dir.glob("listens/day=*/listens.parquet"))


@pytest.mark.parametrize(
    "moment",
    [
        "before anything is written",
        "before the offsets are written",
        "before the commit, its dead letters sent",
        "after the commit",
        "while the archive is written",
    ],
)
def test_killed(settings: Settings, launch: Callable[..., subprocess.Popen[str]], moment: str) -> None:
    sent, bad = sendings(1)
    send(settings, sent)
    assert launch(settings, moment).wait(60) == -signal.SIGKILL
    assert events_landed(settings) < EVENTS
    # In the group of the killed one it would wait until that one is given up; one test below does.
    with running_sink(settings.model_copy(update={"kafka_group": "another"})):
        wait_for(settings, EVENTS + BAD)
    assert_all_is_there(settings, bad)


def test_killed_again_and_again_while_events_come(
    settings: Settings, launch: Callable[..., subprocess.Popen[str]]
) -> None:
    sent, bad = sendings(2)
    for start in range(0, EVENTS, EVENTS // 3):
        process = launch(settings.model_copy(update={"kafka_group": f"group-{start}"}))
        send(settings, sent[start : start + EVENTS // 3])
        assert process.stdout is not None
        assert process.stdout.readline() != ""
        process.kill()
    send(settings, sent[EVENTS:])
    with running_sink(settings.model_copy(update={"kafka_group": f"group-{start}"})):
        wait_for(settings, EVENTS + BAD)
    assert_all_is_there(settings, bad)


def test_told_to_stop_it_finishes_and_the_next_one_goes_on(
    settings: Settings, launch: Callable[..., subprocess.Popen[str]]
) -> None:
    sent, bad = sendings(3)
    send(settings, sent[: EVENTS // 2])
    process = launch(settings)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert archived_rows(settings) == len(landed_rows(settings)) > 0
    send(settings, sent[EVENTS // 2 :])
    with running_sink(settings):
        wait_for(settings, EVENTS + BAD)
    assert_all_is_there(settings, bad)


def test_postgres_stopped_and_killed_in_mid_stream(settings: Settings, servers: Stack) -> None:
    sent, bad = sendings(4)
    third = EVENTS // 3
    with running_sink(settings):
        send(settings, sent[:third])
        wait_for(settings, third)
        servers.postgres.stop()
        send(settings, sent[third : 2 * third])
        time.sleep(1)  # so that the sink finds out while it has a batch in hand
        servers.postgres.start()
        wait_for(settings, 2 * third)
        kill_postgres(servers.postgres)
        send(settings, sent[2 * third :])
        servers.postgres.start()
        wait_for(settings, EVENTS + BAD)
    assert_all_is_there(settings, bad)


def kill_postgres(server: EmbeddedPostgres) -> None:
    os.kill(int((server.data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)


def test_the_broker_stopped_and_killed_in_mid_stream(settings: Settings, servers: Stack) -> None:
    sent, bad = sendings(5)
    third = EVENTS // 3
    with running_sink(settings):
        send(settings, sent[:third])
        wait_for(settings, third // 2)
        servers.broker.stop()
        servers.broker.start()
        send(settings, sent[third : 2 * third])
        wait_for(settings, third + third // 2)
        os.kill(int((servers.broker.folder / "server.pid").read_text()), signal.SIGKILL)
        servers.broker.start()
        send(settings, sent[2 * third :])
        wait_for(settings, EVENTS + BAD)
    assert_all_is_there(settings, bad)


def test_told_to_stop_while_postgres_is_away(settings: Settings, servers: Stack) -> None:
    sent, bad = sendings(6)
    with running_sink(settings):
        wait_for(settings, 0)
        send(settings, sent[:BATCH])
        wait_for(settings, BATCH)
        servers.postgres.stop()
        send(settings, sent[BATCH:])
    servers.postgres.start()
    with running_sink(settings):
        wait_for(settings, EVENTS + BAD)
    assert_all_is_there(settings, bad)
