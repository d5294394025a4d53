"""The live parts, wired: broker, trending job, sink, simulator. `pulse stream …` runs them one by one."""

from __future__ import annotations

import itertools
import json
import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from music_pulse.display import Report, console, step
from music_pulse.errors import DatabaseError, InputError
from music_pulse.settings import Settings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from streaming.client import KafkaConfig
    from streaming.simulator import Play

logger = logging.getLogger(__name__)


def jar_cache(settings: Settings) -> Path:
    """Return the folder of the downloaded jars."""
    return settings.jar_cache or settings.home / "jars"


@contextmanager
def broker(settings: Settings) -> Iterator[KafkaConfig]:
    """Yield how to reach Kafka, with the topics made: the named brokers, or the embedded one, started if need be."""
    from streaming.client import KafkaConfig, ensure_topics, listen_topics

    def ready(config: KafkaConfig) -> KafkaConfig:
        ensure_topics(config, listen_topics(config, settings.kafka_topic, settings.kafka_partitions))
        return config

    if settings.kafka_bootstrap:
        yield ready(KafkaConfig.from_settings(settings))
        return
    from music_pulse.embedded import broker as embedded

    fetch_jars(settings)
    with embedded.running(settings.home, jar_cache=jar_cache(settings)) as endpoint:
        yield ready(KafkaConfig.from_settings(settings, endpoint.bootstrap))


def fetch_jars(settings: Settings, *, with_spark: bool = False) -> list[Path]:
    """Download what is missing of the embedded Kafka and, if asked, of Spark's connectors; return the latter."""
    from music_pulse.embedded import jars

    wanted: list[Sequence[str]] = [] if settings.kafka_bootstrap else [jars.KAFKA_COORDINATES]
    if with_spark:
        wanted.append(jars.SPARK_COORDINATES)
    found: list[Path] = []
    with ExitStack() as shown:
        reports: list[Report] = []

        def report(done: int, total: int, name: str) -> None:
            if not reports:  # nothing to show where nothing is missing
                reports.append(shown.enter_context(step("Downloading jars")))
            reports[0](done, total, name)

        for coordinates in wanted:
            found = jars.resolve(coordinates, jar_cache(settings), report)
    return found if with_spark else []


def until_stopped() -> threading.Event:
    """Return an event that SIGTERM and Ctrl-C set: the part in hand ends in order."""
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    return stop


@contextmanager
def metrics_server(settings: Settings, port: int | None) -> Iterator[CollectorRegistry]:
    """Serve Prometheus' `/metrics` while inside; without a port only collect."""
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    if port is None:
        yield registry
        return
    try:
        server, thread = start_http_server(port, settings.metrics_host, registry)
    except OSError as error:
        raise InputError(f"--metrics-port {port}: {error.strerror}") from error
    logger.info("metrics on http://%s:%d/metrics", settings.metrics_host, server.server_port)
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run_sink(settings: Settings, metrics_port: int | None = None) -> None:
    """Land events in raw.stream_listens until stopped."""
    from streaming.client import LagCollector, StreamMetrics
    from streaming.sinks import run_listens_sink, sink_group

    stop = until_stopped()
    with broker(settings) as config, metrics_server(settings, metrics_port) as registry:
        registry.register(LagCollector(config, [sink_group(settings)], [settings.kafka_topic]))
        run_listens_sink(settings, bootstrap=config.bootstrap, stop=stop, metrics=StreamMetrics(registry))


def run_trending(settings: Settings, metrics_port: int | None = None, *, dead_letters: bool = True) -> None:
    """Count trending windows until stopped."""
    from music_pulse.embedded.java import java_home
    from streaming.trending_job import run_trending as run_job
    from streaming.trending_metrics import TrendingMetrics
    from streaming.trending_rules import TrendingRules

    TrendingRules.from_settings(settings)  # what is wrong with them is told before anything is started
    stop = until_stopped()
    jars = fetch_jars(settings, with_spark=True)
    with broker(settings) as config, metrics_server(settings, metrics_port) as registry:
        run_job(
            settings,
            bootstrap=config.bootstrap,
            java_home=java_home(settings.home),
            jars=jars,
            checkpoint=checkpoint(settings),
            stop=stop,
            progress=TrendingMetrics(registry).record,
            dead_letters=dead_letters,
        )


def checkpoint(settings: Settings) -> Path:
    """Return where Spark keeps the trending job's offsets and state: one a database and topic."""
    return settings.home / "checkpoints" / f"{settings.postgres_dbname}-{settings.kafka_topic}"


def run_simulator(settings: Settings, rate: float, seconds: float | None = None, seed: int = 1) -> int:
    """Send invented events until stopped, or for `seconds`; return how many."""
    from streaming.events import event_serializer
    from streaming.simulator import Story, simulate

    stop = until_stopped()
    story = Story(rate=rate, seed=seed)
    with broker(settings) as config, step("Simulating") as report:
        return simulate(
            config,
            settings.kafka_topic,
            event_serializer(settings),
            story,
            invented_plays(seed),
            stop,
            until=seconds,
            progress=lambda sent: report(sent, None, f"events to topic {settings.kafka_topic}"),
        )


def run_replay(settings: Settings, path: Path | None, speed: float, user_name: str | None) -> tuple[int, int]:
    """Send a file of listens, or what is landed, in the order of the times; return how many were sent, and are none."""
    if path is None:
        with TemporaryDirectory() as folder:
            return _replay_file(settings, _landed(settings, Path(folder), user_name), speed, None)
    try:
        path.open("rb").close()  # before a broker is started for it
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from error
    return _replay_file(settings, path, speed, user_name)


def _landed(settings: Settings, folder: Path, user_name: str | None) -> Path:
    from extract.landed import write_landed

    path = folder / "what is landed"
    if not write_landed(settings, path, user_name):
        raise InputError(f"nothing is landed{f' of {user_name}' if user_name else ''}: pulse run lands listens")
    return path


def _replay_file(settings: Settings, path: Path, speed: float, user_name: str | None) -> tuple[int, int]:
    from streaming.events import event_serializer
    from streaming.simulator import replay

    stop = until_stopped()
    with broker(settings) as config, step("Replaying") as report:
        return replay(
            config,
            settings.kafka_topic,
            event_serializer(settings),
            path,
            stop,
            speed=speed,
            user_name=user_name,
            progress=lambda sent: report(sent, None, f"events of {path.name}"),
        )


def invented_plays(seed: int) -> Iterator[Play]:
    """Yield what people hear, without end: the synthetic generator's tracks, as often as there."""
    import random

    from extract.synthetic.generator import Plan, generate
    from streaming.simulator import Play

    names = ("artist_name", "track_name", "album", "duration_ms")
    columns: list[list[object]] = [[] for _ in names]
    for rows in generate(Plan(listens=20_000, seed=seed)):
        for column, name in zip(columns, names, strict=True):
            column.extend(rows.listens[name].to_pylist())
    plays = [Play(*row) for row in zip(*columns, strict=True)]
    random.Random(seed).shuffle(plays)
    return itertools.cycle(plays)


def status(settings: Settings) -> None:
    """Show the lag of each group and partition, the last batches, and how long a listen takes to be landed."""
    from rich.table import Table

    from music_pulse.database import connect
    from streaming.client import measure_lag
    from streaming.sinks import sink_group

    with broker(settings) as config:
        lags = measure_lag(config, [sink_group(settings)], [settings.kafka_topic])
    table = Table("group", "topic", "partition", "committed", "end", "lag")
    counted = processed(checkpoint(settings), settings.kafka_topic)
    for lag in lags:
        committed = "-" if lag.committed is None else f"{lag.committed:,}"
        table.add_row(
            lag.group, lag.partition.topic, str(lag.partition.number), committed, f"{lag.end:,}", f"{lag.events:,}"
        )
    for lag in lags:
        at = counted.get(lag.partition.number)
        if at is not None:
            behind = max(0, lag.end - at)
            table.add_row(
                "trending job", lag.partition.topic, str(lag.partition.number), f"{at:,}", f"{lag.end:,}", f"{behind:,}"
            )
    console().print(table)
    with connect(settings.credentials("loader")) as connection:
        for line in health(connection):
            console().print(line)


def processed(checkpoint: Path, topic: str) -> dict[int, int]:
    """Return where the trending job reads on, by partition; it keeps its offsets itself, in its checkpoint."""
    committed = max((int(path.name) for path in (checkpoint / "commits").glob("[0-9]*")), default=None)
    if committed is None:
        return {}
    offsets = (checkpoint / "offsets" / str(committed)).read_text(encoding="utf-8").splitlines()[2]
    return {int(partition): int(offset) for partition, offset in json.loads(offsets)[topic].items()}


def health(connection: object) -> list[str]:
    """Say how fresh the stream's tables are, a line each."""
    import psycopg

    assert isinstance(connection, psycopg.Connection)
    landed = connection.execute(
        """
        select sum(listens), sum(refused), max(committed_at), (
            select percentile_cont(array[0.5, 0.95]) within group (
                order by extract(epoch from loads.committed_at - listens.kafka_timestamp)
            )
            from (select * from raw.stream_loads order by committed_at desc limit 20) as loads
            inner join raw.stream_listens as listens on listens.load_id = loads.load_id
        )
        from raw.stream_loads
        """
    ).fetchone()
    if landed is None:
        raise DatabaseError("raw.stream_loads can't be read")
    listens, refused, last, latency = landed
    lines = [
        f"sink      {listens or 0:,} listens landed, {refused or 0:,} refused, last at {last or 'never'}"
        + (f"; broker to table p50 {latency[0]:.2f} s, p95 {latency[1]:.2f} s" if latency else "")
    ]
    jobs = connection.execute(
        "select query_id, batch_id, watermark, updated_at from raw.trending_ledger order by updated_at desc limit 1"
    ).fetchall()
    for query_id, batch_id, watermark, updated_at in jobs:
        lines.append(f"trending  query {query_id}, batch {batch_id:,} at {updated_at}, watermark {watermark}")
    left_out = connection.execute(
        "select reason, sum(events) from raw.trending_left_out group by reason order by reason"
    ).fetchall()
    if left_out:
        lines.append("left out  " + ", ".join(f"{events:,} {reason}" for reason, events in left_out))
    return lines
