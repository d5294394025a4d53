"""python -m benchmarks.stream_latency [--help]: how long from sending an event until its row stands in Postgres.

The raw sink and the trending job by turns, each as the command runs it, with default settings, on an embedded broker
and Postgres on the same machine; 50 and 1,000 listens a second of as many users as would make them. Ten events a
second are probes: a probe's clock starts before it is handed to the producer, and stops when a look at the table finds
it (the sink: its row in raw.stream_listens; trending: a window of its track, which nobody else plays); it is looked
within 20 ms of each transaction. Of the start only its length is measured: until the first probe is seen, from the
command; and what comes in the half minute (the sink) or the two minutes (trending) after it doesn't count, for so long
the JVM compiles what runs often. The job finds the listens of the last `--age` minutes at the same rate in the topic
and catches up with them first, so that its state is that of a job which has run for as long: it holds no listen for
more than 34 minutes. CPU and memory are those of the command and its children (the JVM), not of Postgres or the
broker; stolen is the share of the machine's CPU time that its host gave to others meanwhile.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil

from benchmarks.kafka_clients import JARS
from benchmarks.measure import alone, table_of
from benchmarks.trending import SECONDS_A_PLAY, fill
from music_pulse import streams
from music_pulse.database import connect
from music_pulse.settings import Settings, load_settings
from music_pulse.stack import warehouse
from streaming.client import BulkProducer, JsonSerializer, KafkaConfig, ensure_topics, listen_topics
from streaming.events import EventBuilder

RATES = (50, 1_000)
SECONDS = 60.0
AGE_MINUTES = 35
WARM_SECONDS = {"sink": 30.0, "trending": 120.0}
"""Between the first row and the first probe that counts: the JVM compiles what runs often."""

_PROBES = 10
_LOOK_SECONDS = 0.02
_TICK_SECONDS = 0.01
_PATIENCE_SECONDS = 600.0
_TARGET_SECONDS = 2.0

_SEEN = {
    "sink": "select listen_id from raw.stream_listens where listen_id = any(%(listens)s)",
    "trending": (
        "select distinct entity_id from raw.trending_windows"
        " where entity_kind = 'track' and entity_id = any(%(tracks)s)"
        " and window_start = any(select to_timestamp(start) from unnest(%(starts)s::bigint[]) as start)"
    ),
}


@dataclass(frozen=True)
class Probe:
    """An event that is watched for, and when it was sent (`time.perf_counter`)."""

    listen_id: UUID
    track_id: UUID
    minute: int
    sent: float


@dataclass(frozen=True)
class Found:
    """What a part did at a rate: seconds, CPU-seconds an event, MiB, a share."""

    latencies: list[float]
    cpu_per_event: float
    memory_mib: float
    start: float
    stolen: float


def bench_latency(folder: Path, rows: int) -> str:
    """The sink and the trending job, at both rates; `rows` doesn't matter."""
    return report(folder, SECONDS, AGE_MINUTES)


def report(folder: Path, seconds: float, age: int) -> str:
    """Measure for so many seconds a part and rate, with a job `age` minutes old; return the table."""
    settings = load_settings(home=folder, jar_cache=JARS, archive_dir=folder / "stream")
    lines, trending = [], []
    with streams.broker(settings) as config, warehouse(settings):
        for rate in RATES:
            for part in _SEEN:
                name = f"{part}_{rate}"
                named = settings.model_copy(update={"postgres_dbname": name, "kafka_topic": name})
                found = measure(named, config, part, rate, seconds, age if part == "trending" else 0)
                p50, p95 = _percentiles(found.latencies)
                if part == "trending":
                    trending.append(p95)
                lines.append(
                    [
                        part,
                        f"{rate:,}",
                        f"{p50:.2f}",
                        f"{p95:.2f}",
                        f"{found.cpu_per_event * 1000:.2f}",
                        f"{found.memory_mib:,.0f}",
                        f"{found.start:.1f}",
                        f"{found.stolen:.0%}",
                    ]
                )
    columns = ["part", "listens / s", "p50 s", "p95 s", "CPU ms / event", "memory MiB", "start s", "stolen"]
    verdict = f"Trending: p95 {max(trending):.2f} s at most (target: {_TARGET_SECONDS:g})."
    return table_of("From sending to the row in Postgres", columns, lines, verdict)


def measure(settings: Settings, config: KafkaConfig, part: str, rate: int, seconds: float, age: int = 0) -> Found:
    """Run a part on a database and a topic of its own, that has the listens of the last `age` minutes."""
    ensure_topics(config, listen_topics(config, settings.kafka_topic, settings.kafka_partitions))
    if age:
        alone(fill, config, settings.kafka_topic, rate * 60 * age, age)
    with warehouse(settings) as filled, connect(filled.credentials("admin"), autocommit=True) as connection:
        began = time.perf_counter()
        with _part(settings, part) as process, Load(config, settings.kafka_topic, rate) as load:
            watch = Watch(connection, part, load, process)
            watch.until(lambda: bool(watch.latencies), _PATIENCE_SECONDS)
            started = time.perf_counter() - began
            watch.run(WARM_SECONDS[part])
            watch.latencies.clear()
            cpu, sent, machine = _cpu(process), load.sent, psutil.cpu_times()
            watch.run(seconds)
            cpu, sent, stolen = _cpu(process) - cpu, load.sent - sent, _stolen(machine, psutil.cpu_times())
            memory = _memory_mib(process)
            load.stop()
            watch.until(lambda: not watch.pending, _PATIENCE_SECONDS)
    return Found(watch.latencies, cpu / sent, memory, started, stolen)


class Load:
    """Sends listens at a steady rate from a thread, and remembers the probes among them."""

    def __init__(self, config: KafkaConfig, topic: str, rate: int) -> None:
        self.sent = 0
        self._probes: list[Probe] = []
        self._lock = threading.Lock()
        self._config, self._topic, self._rate = config, topic, rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more, and wait until all is delivered."""
        self._stop.set()
        self._thread.join()

    def take_probes(self) -> list[Probe]:
        """Return the probes sent since this was last asked."""
        with self._lock:
            probes, self._probes = self._probes, []
        return probes

    def _run(self) -> None:
        rng, builder, plays = random.Random(1), EventBuilder(), streams.invented_plays(1)
        users = self._rate * SECONDS_A_PLAY
        every = self._rate // _PROBES
        began = time.perf_counter()
        with BulkProducer(self._config, self._topic, JsonSerializer()) as producer:
            while not self._stop.wait(_TICK_SECONDS):
                now = time.time()
                numbers = range(self.sent, int((time.perf_counter() - began) * self._rate) + 1)
                listens = []
                for number, play in zip(numbers, plays, strict=False):
                    track = f"Probe {number}" if number % every == 0 else play.track_name
                    listens.append(
                        {
                            "user_name": f"listener_{rng.randrange(users)}",
                            "listened_at": int(now),
                            "track_metadata": {"artist_name": play.artist_name, "track_name": track},
                        }
                    )
                # All that are due at once: the part needs the cores.
                events, _ = builder.build(listens, now=now)
                for number, event in zip(numbers, events, strict=True):
                    if number % every == 0:
                        ids = UUID(event["listen_id"]), UUID(event["track_id"])
                        with self._lock:
                            self._probes.append(Probe(*ids, int(now) // 60 * 60, time.perf_counter()))
                    producer.send(event["user_name"], event)
                    self.sent += 1


class Watch:
    """Looks for the probes in the table of a part."""

    def __init__(self, connection: Any, part: str, load: Load, process: psutil.Popen) -> None:
        self.latencies: list[float] = []
        self.pending: dict[UUID, Probe] = {}
        self._connection, self._part, self._load, self._process = connection, part, load, process
        self._snapshot = ""

    def run(self, seconds: float) -> None:
        """Look for so long."""
        end = time.perf_counter() + seconds
        self.until(lambda: time.perf_counter() >= end, seconds + 1)

    def until(self, done: Any, patience: float) -> None:
        """Look until `done()`; raises if that takes longer than `patience` seconds, or the part has ended."""
        deadline = time.perf_counter() + patience
        while not done():
            if time.perf_counter() > deadline or self._process.poll() is not None:
                raise AssertionError(f"{self._part}: {len(self.pending)} probes not found")
            self._look()
            time.sleep(_LOOK_SECONDS)

    def _look(self) -> None:
        # The part needs the cores: whether any transaction has ended since the last look is cheaper to ask.
        snapshot = self._connection.execute("select pg_current_snapshot()::text").fetchone()[0]
        if snapshot == self._snapshot:
            return
        self._snapshot = snapshot
        by_track = self._part == "trending"
        for probe in self._load.take_probes():
            self.pending[probe.track_id if by_track else probe.listen_id] = probe
        asked = {
            "listens": list(self.pending),
            "tracks": list(self.pending),
            "starts": list({probe.minute for probe in self.pending.values()}),
        }
        rows = self._connection.execute(_SEEN[self._part], asked).fetchall()
        now = time.perf_counter()
        for (found,) in rows:
            self.latencies.append(now - self.pending.pop(found).sent)


@contextmanager
def _part(settings: Settings, part: str) -> Iterator[psutil.Popen]:
    """Run `pulse stream <part>`."""
    names = ("home", "jar_cache", "archive_dir", "postgres_dbname", "kafka_topic")
    environment = {f"PULSE_{name.upper()}": str(getattr(settings, name)) for name in names}
    with (settings.home / f"{settings.kafka_topic}.log").open("wb") as log:
        command = [str(Path(sys.executable).with_name("pulse")), "stream", part]
        child = psutil.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(_PATIENCE_SECONDS)


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _cpu(process: psutil.Process) -> float:
    return sum(_of_each(process, lambda member: sum(member.cpu_times()[:2])))


def _of_each(process: psutil.Process, read: Callable[[psutil.Process], float]) -> Iterator[float]:
    """Read something of each of the family; a child may end before it is asked."""
    for member in _family(process):
        with suppress(psutil.NoSuchProcess):
            yield read(member)


def _stolen(before: Any, after: Any) -> float:
    """Return the share of CPU time that went to other machines of the host; 0 where the system doesn't say."""
    return float(getattr(after, "steal", 0) - getattr(before, "steal", 0)) / (sum(after) - sum(before))


def _memory_mib(process: psutil.Process) -> float:
    return sum(_of_each(process, lambda member: member.memory_full_info().pss)) / 2**20


def _percentiles(latencies: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(latencies, n=20)
    return cuts[9], cuts[18]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream_latency", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of measuring, for each part and rate")
    parser.add_argument("--age", type=int, default=AGE_MINUTES, help="of the trending job's state, in minutes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pulse-bench-") as folder:
        print(report(Path(folder), options.seconds, options.age))


if __name__ == "__main__":
    main()
