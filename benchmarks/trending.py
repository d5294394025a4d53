"""The trending job's listens per second: into Postgres, beside Spark's noop sink and beside the straightforward query.

One topic holds `MINUTES` of listens; each variant reads all of it. Ours and noop do so in one JVM, a batch of the one
and the same batch of the other by turns, since the machine's speed changes by half within minutes; the straightforward
query has a JVM of its own. Counted are the full batches after the first one, in which the JVM warms up. They share
memory and garbage, and what Postgres does later falls into the other's turn, so what the sink costs is seen a little
too small; a query's commit and its next plan run beside the other's batch.

* ours: the trending job as it is, into raw.trending_windows;
* noop: the same query, its changes into Spark's noop sink;
* straightforward: the same output the way Spark's guide suggests: windows expanded by Spark, a set of listens for each
  window and entity, Spark's default settings (200 shuffle partitions, state in memory), the rows upserted.
"""

from __future__ import annotations

import json
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812

from benchmarks.kafka_clients import JARS
from benchmarks.measure import alone, table_of
from extract.synthetic.generator import Plan, generate
from music_pulse import streams
from music_pulse.database import connect
from music_pulse.settings import Settings, load_settings
from music_pulse.stack import warehouse
from streaming import spark
from streaming.client import BulkProducer, BytesSerializer, KafkaConfig
from streaming.events import EventBuilder
from streaming.transforms import counted, left_out_counts, parsed, recent_listens, window_changes
from streaming.trending_job import records
from streaming.trending_rules import TrendingRules
from streaming.trending_sink import TrendingSink

MINUTES = 40
"""Longer than the state holds listens: the last batches find it full."""
SECONDS_A_PLAY = 210
"""How long a listener is busy with a track: so many listeners make so many listens."""
_CHUNK = 10_000
RUNS = 3
PLAIN_EVENTS = 100_000
"""Of a batch of the straightforward query: with 250,000 its heap was full, and it had not ended after ten minutes."""
_LEAST_BATCHES = 4
_PATIENCE_SECONDS = 600
"""How long a variant waits for its turn: a batch of another may have failed."""

Write = Callable[[DataFrame, int], None]


class Batch(NamedTuple):
    """What a variant did in one go: so many listens, in so many seconds."""

    listens: int
    seconds: float


def bench_trending(folder: Path, rows: int) -> str:
    """Ours and noop by turns, then the straightforward query; and that it counts the same as ours."""
    settings = load_settings(home=folder, jar_cache=JARS, trending_trigger_seconds=0)
    events = min(settings.trending_batch_events, rows // _LEAST_BATCHES)
    settings = settings.model_copy(update={"trending_batch_events": events})
    jars = streams.fetch_jars(settings, with_spark=True)
    with streams.broker(settings) as config, warehouse(settings):
        alone(fill, config, settings.kafka_topic, rows)
        runs = []
        for number in range(RUNS):
            named = settings.model_copy(update={"postgres_dbname": f"ours_{number}"})
            runs.append(alone(run, ["ours", "noop"], named, config.bootstrap, jars))
        plain = {"postgres_dbname": "straightforward", "trending_batch_events": PLAIN_EVENTS}
        runs.append(alone(run, ["straightforward"], settings.model_copy(update=plain), config.bootstrap, jars))
        same = _windows(settings, "ours_0") == _windows(settings, "straightforward")
    found = {name: [_rate(each[name]) for each in runs if name in each] for name in VARIANTS}
    rates = {name: _rate([batch for each in runs for batch in each.get(name, [])]) for name in VARIANTS}
    lines = [
        [name, f"{rate:,.0f}", f"{rate / rates['ours']:.2f}", ", ".join(f"{each:,.0f}" for each in found[name])]
        for name, rate in rates.items()
    ]
    shares = [ours / noop for ours, noop in zip(found["ours"], found["noop"], strict=True)]
    verdict = (
        f"Ours: {statistics.median(shares):.3f} of noop (target: 0.9; "
        f"by runs {', '.join(f'{share:.3f}' for share in shares)}), "
        f"{rates['ours'] / rates['straightforward']:.1f} × the straightforward query (2), "
        f"{rates['ours']:,.0f} listens a second (10,000); equal windows: {'yes' if same else 'NO'}. "
        f"At most {events:,} listens a batch, {PLAIN_EVENTS:,} of the straightforward query."
    )
    title = f"The trending job, {rows:,} listens of {rows // (MINUTES * 60):,} a second"
    return table_of(title, ["variant", "listens / s", "of ours", "each run"], lines, verdict)


def _rate(batches: Sequence[Batch]) -> float:
    return sum(batch.listens for batch in batches) / sum(batch.seconds for batch in batches)


def fill(config: KafkaConfig, topic: str, events: int, minutes: int = MINUTES) -> None:
    """Send `events` listens of the last minutes, evenly spread, of as many users as would make them."""
    rng = random.Random(1)
    builder = EventBuilder()
    users = max(1, events * SECONDS_A_PLAY // (minutes * 60))
    started = int(time.time()) - minutes * 60
    sent = 0
    with BulkProducer(config, topic, BytesSerializer()) as producer:
        for batch in generate(Plan(listens=events * 11 // 10)):
            names = [batch.listens[name].to_pylist() for name in ("artist_name", "track_name", "album", "duration_ms")]
            plays = list(zip(*names, strict=True))
            rng.shuffle(plays)
            listens: list[Any] = []
            for artist, track, album, duration in plays[: events - sent]:
                metadata: dict[str, Any] = {"artist_name": artist, "track_name": track}
                metadata["additional_info"] = {"duration_ms": duration, "submission_client": "benchmark"}
                if album:
                    metadata["release_name"] = album
                at = started + (sent + len(listens)) * minutes * 60 // events
                user = f"listener_{rng.randrange(users)}"
                listens.append({"user_name": user, "listened_at": at, "track_metadata": metadata})
            for start in range(0, len(listens), _CHUNK):
                built, _ = builder.build(listens[start : start + _CHUNK], now=time.time())
                keys = [event["user_name"].encode() for event in built]
                producer.send_many(keys, [json.dumps(event).encode() for event in built])
            sent += len(listens)
    if sent != events:
        raise AssertionError(f"{sent} events instead of {events}")


def run(variants: Sequence[str], settings: Settings, bootstrap: str, jars: list[Path]) -> dict[str, list[Batch]]:
    """Read the whole topic by some variants, in turns; return the batches that count."""
    from music_pulse.embedded.java import java_home

    folder = settings.home / f"spark-{settings.postgres_dbname}"
    session = spark.session(
        variants[0], java_home=java_home(settings.home), jars=jars, folder=folder, memory=settings.spark_memory
    )
    session.conf.set("spark.sql.streaming.numRecentProgressUpdates", "1000")  # all batches are read at the end
    rules = TrendingRules.from_settings(settings)
    config = KafkaConfig.from_settings(settings, bootstrap)
    turns = Turns(variants)
    queries = {}
    with warehouse(settings) as filled:
        for name in variants:
            query, write = VARIANTS[name](session, filled, rules)
            events = parsed(records(session, config, filled, None), rules)
            queries[name] = (
                query(left_out_counts(events))
                .writeStream.outputMode("update")
                .foreachBatch(turns.of(name, write))
                .option("checkpointLocation", str(folder / name))
                .trigger(availableNow=True)
                .start()
            )
        found = {}
        for name, started in queries.items():
            started.awaitTermination()
            reports = [json.loads(progress.json) for progress in started.recentProgress]
            half = max(report["numInputRows"] for report in reports) // 2
            found[name] = [
                Batch(
                    report["numInputRows"],
                    report["durationMs"]["triggerExecution"] / 1000 - turns.waited[name, report["batchId"]],
                )
                for report in reports
                if report["numInputRows"] > half
            ][1:]
    session.stop()
    return found


class Turns:
    """Lets one query write at a time: each batch by all of them, and who is first changes with every batch."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._done = 0
        self._has_failed = False
        self._changed = threading.Condition()
        self.waited: dict[tuple[str, int], float] = {}
        """Seconds, by query and batch."""

    def of(self, name: str, write: Write) -> Write:
        """Return `write` that waits for its turn."""

        def in_turn(listens: DataFrame, number: int) -> None:
            began = time.perf_counter()
            with self._changed:
                self._changed.wait_for(lambda: self._has_failed or self._next() == (name, number), _PATIENCE_SECONDS)
                if self._next() != (name, number):
                    raise AssertionError(f"{name} waits in vain with batch {number}")
            self.waited[name, number] = time.perf_counter() - began
            try:
                write(listens, number)
            except BaseException:
                self._has_failed = True
                raise
            finally:
                with self._changed:
                    self._done += not self._has_failed
                    self._changed.notify_all()

        return in_turn

    def _next(self) -> tuple[str, int]:
        number, place = divmod(self._done, len(self._names))
        return (self._names if number % 2 == 0 else self._names[::-1])[place], number


def _ours(session: SparkSession, settings: Settings, rules: TrendingRules) -> tuple[Any, Write]:
    sink = TrendingSink(settings.credentials("loader"), rules, UUID(int=1))
    return lambda events: recent_listens(counted(events), rules), sink


def _noop(session: SparkSession, settings: Settings, rules: TrendingRules) -> tuple[Any, Write]:
    def write(listens: DataFrame, number: int) -> None:
        window_changes(listens, rules).write.format("noop").mode("overwrite").save()

    return lambda events: recent_listens(counted(events), rules), write


def _straightforward(session: SparkSession, settings: Settings, rules: TrendingRules) -> tuple[Any, Write]:
    for name, value in (
        ("spark.sql.shuffle.partitions", "200"),
        ("spark.sql.streaming.stateStore.providerClass", _SPARK_DEFAULT_STORE),
        ("spark.sql.objectHashAggregate.sortBased.fallbackThreshold", "128"),
    ):
        session.conf.set(name, value)
    connection = connect(settings.credentials("loader"), autocommit=True)

    def write(rows: DataFrame, number: int) -> None:
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute(_STAGE)
            with cursor.copy("copy counted from stdin") as copy:
                for row in rows.toArrow().to_pylist():
                    copy.write_row(list(row.values()))
            cursor.execute(_UPSERT)

    return lambda events: _guide_windows(counted(events), rules), write


_SPARK_DEFAULT_STORE = "org.apache.spark.sql.execution.streaming.state.HDFSBackedStateStoreProvider"
_STAGE = """
create temporary table if not exists counted (like raw.trending_windows) on commit delete rows
"""
_UPSERT = """
insert into raw.trending_windows select * from counted
on conflict (window_start, window_end, entity_kind, entity_id) do update set
    artist_name = excluded.artist_name,
    track_name = excluded.track_name,
    listen_count = excluded.listen_count,
    listener_count = excluded.listener_count,
    updated_at = excluded.updated_at
"""


def _guide_windows(listens: DataFrame, rules: TrendingRules) -> DataFrame:
    """Count the windows as absolute numbers: a set of (user, second, track) for each window and entity."""
    track = F.struct(F.lit("track").alias("kind"), F.col("track_id").alias("id"), F.col("track_name").alias("name"))
    artist = F.struct(
        F.lit("artist").alias("kind"), F.col("artist_id").alias("id"), F.lit(None).cast("string").alias("name")
    )
    users = F.array_sort(F.transform("plays", lambda play: play["user_key"]))
    cap = F.lit(rules.listens_per_user)
    start = F.struct(F.lit("").alias("user"), F.lit(0).alias("held"), F.lit(0).alias("listens"))
    totals = F.aggregate(
        users,
        start,
        lambda total, user: F.struct(
            user.alias("user"),
            F.when(total["user"] == user, total["held"] + 1).otherwise(1).alias("held"),
            (total["listens"] + F.when((total["user"] == user) & (total["held"] >= cap), 0).otherwise(1)).alias(
                "listens"
            ),
        ),
    )
    window = F.window("event_time", f"{rules.window_minutes} minutes", f"{rules.slide_minutes} minutes")
    return (
        listens.withWatermark("event_time", f"{rules.watermark_minutes} minutes")
        .withColumn("entity", F.explode(F.array(track, artist)))
        .groupBy(window.alias("window"), "entity.kind", "entity.id")
        .agg(
            F.collect_set(F.struct("user_key", "listened_at", "track_id")).alias("plays"),
            F.min("artist_name").alias("artist_name"),
            F.min("entity.name").alias("track_name"),
        )
        .select(
            F.col("window.start").alias("window_start"),
            F.col("window.end").alias("window_end"),
            "kind",
            "id",
            "artist_name",
            "track_name",
            totals["listens"].cast("long").alias("listens"),
            F.size(F.array_distinct(users)).cast("long").alias("listeners"),
            F.current_timestamp().alias("updated_at"),
        )
    )


VARIANTS: dict[str, Callable[[SparkSession, Settings, TrendingRules], tuple[Any, Write]]] = {
    "ours": _ours,
    "noop": _noop,
    "straightforward": _straightforward,
}


def _windows(settings: Settings, name: str) -> list[Any]:
    with (
        warehouse(settings.model_copy(update={"postgres_dbname": name})) as filled,
        connect(filled.credentials("admin")) as connection,
    ):
        return connection.execute(
            "select window_start, window_end, entity_kind, entity_id, artist_name, track_name, listen_count,"
            " listener_count from raw.trending_windows order by 1, 2, 3, 4"
        ).fetchall()
