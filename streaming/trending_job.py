"""The trending job: Kafka -> transforms -> raw.trending_windows. Alone: `python -m streaming.trending_job --help`."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from music_pulse.blocklist import Blocklist, read_blocklist
from music_pulse.database import connect
from music_pulse.errors import DatabaseError
from music_pulse.settings import Settings, load_settings
from streaming import spark
from streaming.avro_source import with_json_values
from streaming.client.config import KafkaConfig
from streaming.client.errors import StreamError
from streaming.events import event_serializer
from streaming.left_out import LeftOut
from streaming.tables import create_stream_tables
from streaming.topics import warn_of_producers_clocks
from streaming.transforms import OLDEST, counted, left_out_counts, parsed, recent_listens, without_blocked
from streaming.trending_rules import TrendingRules
from streaming.trending_sink import TrendingSink
from streaming.window_archive import WindowArchiver

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

logger = logging.getLogger(__name__)

_LAYOUT = 3
"""Of the state, and of a kept batch. With another one Spark can't go on."""
_FETCH_WAIT_MS = 5
_POLL_SECONDS = 0.25
_STOP_SECONDS = 30
_BLOCKLIST_SECONDS = 10.0
"""Between two looks at who is kept out: a change starts the query anew, from its checkpoint."""


@dataclass(frozen=True)
class BatchProgress:
    """What a batch did; rates in events a second, sizes in rows, times in seconds."""

    batch_id: int
    events: int
    events_per_second: float
    seconds: float
    state_rows: int
    watermark: str | None
    late_groups: int
    """Rows of state that Spark dropped since its watermark had passed them: listens later than `late` counts."""
    lag: dict[int, int]
    """Events that are not processed yet, by partition."""
    latency: float | None
    """Seconds from when the broker got the batch's oldest event until Spark had done the batch; None: nothing came.

    A small batch is in Postgres by then, one of a backlog a moment later.
    """


Progress = Callable[[BatchProgress], None]


def run_trending(
    settings: Settings,
    *,
    bootstrap: str,
    java_home: Path,
    jars: Sequence[Path],
    checkpoint: Path,
    stop: threading.Event,
    progress: Progress = lambda _: None,
    dead_letters: bool = True,
) -> None:
    """Run until `stop`. Malformed events become dead letters, unless somebody else sees to that (the raw sink does).

    Raises `StreamError` (`RegistryError`: the schema registry), `DatabaseError`, `ConfigurationError`.
    """
    event_serializer(settings)  # a registry that is missing or out of reach is told before Spark starts
    rules = TrendingRules.from_settings(settings)
    config = KafkaConfig.from_settings(settings, bootstrap)
    warn_of_producers_clocks(config, settings.kafka_topic)
    keep_layout(checkpoint, rules)
    with connect(settings.credentials("loader"), autocommit=True) as connection:
        create_stream_tables(connection)
        begin = _begin(connection, checkpoint, rules)
        blocklist = read_blocklist(connection, settings)
    sink = TrendingSink(
        settings.credentials("loader"), rules, checkpoint, whole_from=_whole_from(begin, rules), stop=stop
    )
    sink.catch_up()
    session = spark.session(
        "trending",
        java_home=java_home,
        jars=jars,
        folder=settings.home / "spark",
        memory=settings.spark_memory,
        master=settings.spark_master,
        driver_host=settings.spark_driver_host,
    )
    source = with_json_values(records(session, config, settings, begin), settings)

    def start() -> StreamingQuery:
        events = left_out_counts(without_blocked(parsed(source, rules), blocklist))
        return (
            recent_listens(counted(events), rules)
            .writeStream.queryName("trending")
            .outputMode("update")
            .option("checkpointLocation", str(checkpoint))
            .trigger(processingTime=f"{settings.trending_trigger_seconds} seconds")
            .foreachBatch(sink)
            .start()
        )

    query = start()
    gc.collect()
    gc.freeze()  # what stands now stays: the look after each batch is at what has come since
    left_out = LeftOut(settings, config, session, checkpoint, dead_letters=dead_letters)
    archiver = WindowArchiver(settings.credentials("loader"), settings.archive_dir / "trending_windows")
    last, next_look = -1, time.monotonic() + _BLOCKLIST_SECONDS
    try:
        left_out.catch_up()
        while query.isActive and not sink.has_failed and not stop.wait(_POLL_SECONDS):
            newest = _follow(query, last, progress, left_out)
            if newest > last:
                archiver.after_batch()
            last = newest
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + _BLOCKLIST_SECONDS
                if (changed := _blocklist_now(settings, blocklist)) != blocklist:
                    blocklist = changed
                    _end(query)
                    logger.info("the block list has changed: the query starts anew with it")
                    last = _follow(query, last, progress, left_out)
                    query = start()
    finally:
        with ExitStack() as at_the_end:  # from the last to the first, whichever of them fails
            at_the_end.callback(session.stop)
            at_the_end.callback(left_out.close)
            at_the_end.callback(archiver.look)
            at_the_end.callback(sink.close)
            at_the_end.callback(lambda: _follow(query, last, progress, left_out))
            _end(query)
    error = query.exception()
    if error is not None:
        raise StreamError(f"the trending job failed: {_first_line(str(error))}") from error


def records(session: SparkSession, config: KafkaConfig, settings: Settings, begin: datetime | None) -> DataFrame:
    """Read the topic: what is committed, from the start or from broker time `begin`."""
    reader = session.readStream.format("kafka").option("subscribe", settings.kafka_topic)
    for name, value in config.java().items():
        reader = reader.option(f"kafka.{name}", value)
    if begin is None:
        reader = reader.option("startingOffsets", "earliest")
    else:
        reader = reader.option("startingTimestamp", str(int(begin.timestamp() * 1000)))
        reader = reader.option("startingOffsetsByTimestampStrategy", "latest")
    return (
        reader.option("kafka.isolation.level", "read_committed")
        # A batch asks for events that are there. But after each answer the client asks ahead for the next ones, and the
        # broker takes its other questions only once it has answered that: half a second later, if nothing comes.
        .option("kafka.fetch.max.wait.ms", _FETCH_WAIT_MS)
        .option("maxOffsetsPerTrigger", settings.trending_batch_events)
        # Events that retention took before we read them are gone: to go on in silence would be the loss.
        .option("failOnDataLoss", "true")
        .load()
        .select("value", "timestamp")
    )


def _blocklist_now(settings: Settings, known: Blocklist) -> Blocklist:
    """Read who is kept out; while the database is gone, go by what is known: nothing is written then, either."""
    try:
        with connect(settings.credentials("loader"), autocommit=True) as connection:
            return read_blocklist(connection, settings)
    except (DatabaseError, psycopg.OperationalError) as error:
        logger.debug("the block list can't be read: %s", error)
        return known


def keep_layout(checkpoint: Path, rules: TrendingRules) -> None:
    """Note in a checkpoint how its state is laid out, and by which rules; one of others is removed, to be made anew.

    By other rules the windows that are open would be counted half by the old ones and half by the new.
    """
    note, removed = checkpoint / "layout.json", checkpoint.with_name(f"{checkpoint.name}.removed")
    layout = json.dumps({"layout": _LAYOUT, **asdict(rules)})
    is_the_same = note.exists() and note.read_text(encoding="utf-8") == layout
    if (checkpoint / "metadata").exists() and not is_the_same:
        logger.warning("the checkpoint is of another version or of other settings, and is made anew: %s", checkpoint)
        shutil.rmtree(removed, ignore_errors=True)
        checkpoint.replace(removed)
    shutil.rmtree(removed, ignore_errors=True)  # also what a crash left
    if not is_the_same:
        # Never beside a state that counts: a crash in the middle of it would cost the checkpoint.
        checkpoint.mkdir(parents=True, exist_ok=True)
        note.write_text(layout, encoding="utf-8")


def _begin(connection: Any, checkpoint: Path, rules: TrendingRules) -> datetime | None:
    """Where this checkpoint begins: with the topic (None), or, once there are windows, shortly before it was made.

    Further back, if the last query stopped earlier than that: so that the windows that it left open are whole, too.

    Kept in the checkpoint, for one that is killed before its first batch begins there again.
    """
    kept = checkpoint / "begin.json"
    if kept.exists():
        text = json.loads(kept.read_text(encoding="utf-8"))
        return None if text is None else datetime.fromisoformat(text)
    if (checkpoint / "metadata").exists():
        return None
    begin = None
    queries, watermark = connection.execute("select count(*), max(watermark) from raw.trending_ledger").fetchone()
    if queries:
        window = timedelta(minutes=rules.window_minutes)
        begin = datetime.now(UTC) - window - timedelta(minutes=rules.watermark_minutes)
        if watermark is not None:
            begin = min(begin, watermark - window - timedelta(seconds=rules.clock_ahead_seconds))
    new = checkpoint / "begin.json.new"
    new.write_text(json.dumps(begin and begin.isoformat()), encoding="utf-8")
    new.replace(kept)
    return begin


def _whole_from(begin: datetime | None, rules: TrendingRules) -> datetime | None:
    """The first window whose listens have all come after `begin`: a clock may run ahead so far."""
    if begin is None:
        return None
    slide = rules.slide_minutes * 60
    second = int(begin.timestamp()) + rules.clock_ahead_seconds
    return datetime.fromtimestamp(-(-second // slide) * slide, UTC)


def _follow(query: StreamingQuery, last: int, progress: Progress, left_out: LeftOut) -> int:
    """Tell of the batches after `last`; return the newest."""
    newest = query.lastProgress
    if newest is None or newest.batchId <= last:
        return last
    for progressed in query.recentProgress:
        report = json.loads(progressed.json)
        # An idle query reports the batch that is yet to come, as empty.
        if report["batchId"] > last and "addBatch" in report["durationMs"]:
            last = report["batchId"]
            left_out.record(report)
            done = _batch_progress(report)
            logger.info(
                "batch %d: %d events, %.1f s, %d state rows, watermark %s",
                done.batch_id, done.events, done.seconds, done.state_rows, done.watermark,
            )  # fmt: skip
            progress(done)
            # Py4J's objects are cycles, so few that Python hardly looks for them; until it does, the JVM keeps the
            # plans of their batches and what these hold, megabytes each.
            gc.collect()
    return last


def _end(query: StreamingQuery) -> None:
    """Let the batch in hand end, if it doesn't take too long: what is cut off is repeated at the next start."""
    deadline = time.monotonic() + _STOP_SECONDS
    while query.isActive and query.status["isTriggerActive"] and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    query.stop()


def _batch_progress(report: Any) -> BatchProgress:
    state = report["stateOperators"][0] if report["stateOperators"] else None
    return BatchProgress(
        batch_id=report["batchId"],
        events=report["numInputRows"],
        events_per_second=report.get("processedRowsPerSecond") or 0.0,
        seconds=report["durationMs"].get("triggerExecution", 0) / 1000,
        state_rows=state["numRowsTotal"] if state else 0,
        watermark=report.get("eventTime", {}).get("watermark"),
        late_groups=state["numRowsDroppedByWatermark"] if state else 0,
        lag=_lag(report),
        latency=_latency(report),
    )


def _lag(report: Any) -> dict[int, int]:
    """Events of the topic that are not processed yet, by Spark's own account."""
    [source] = report["sources"]
    latest, end = source.get("latestOffset") or {}, source.get("endOffset") or {}
    return {
        int(partition): max(0, newest - end.get(topic, {}).get(partition, newest))
        for topic, partitions in latest.items()
        for partition, newest in partitions.items()
    }


def _latency(report: Any) -> float | None:
    oldest = report.get("observedMetrics", {}).get("left_out", {}).get(OLDEST)
    if oldest is None:
        return None
    began = datetime.fromisoformat(report["timestamp"]).timestamp()
    ended = began + float(report["durationMs"].get("triggerExecution", 0)) / 1000
    return max(0.0, ended - float(oldest) / 1000)


def _first_line(text: str) -> str:
    return " ".join(text.split("\n\n", 1)[0].split())[:500]


def main() -> None:
    """Run the job as a process of its own: SIGTERM and SIGINT end it in order."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m streaming.trending_job", description=__doc__)
    parser.add_argument("--bootstrap", required=True, help="host:port of the broker")
    parser.add_argument("--java-home", type=Path, required=True)
    parser.add_argument("--jars", required=True, help=f"the connectors' jars, joined by {os.pathsep!r}")
    parser.add_argument("--checkpoint", type=Path, required=True)
    options = parser.parse_args()
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run_trending(
        load_settings(),
        bootstrap=options.bootstrap,
        java_home=options.java_home,
        jars=[Path(path) for path in options.jars.split(os.pathsep)],
        checkpoint=options.checkpoint,
        stop=stop,
    )


if __name__ == "__main__":
    main()
