"""The trending job's listens per second: into Postgres, beside Spark's noop sink and beside the straightforward query.

Ours and noop read one topic in one JVM by turns, since the machine's speed changes by half within minutes: `WARM_UP`
batches of each don't count, as the JVM compiles; then `TURN` batches of the one, of the other, of the other again and
of the one. A turn goes from where its first batch is handed over until its last one is written; ours writes the others
beside the next one. The two share memory and garbage, and what Postgres does later (a checkpoint, say) falls into the
other's turn. Ours and the straightforward query read a smaller topic, each in a JVM of its own, of which the first
batch doesn't count.

* ours: the trending job's query and sink, into raw.trending_windows;
* noop: the same query, its changes into Spark's noop sink;
* straightforward: the same output the way Spark's guide suggests: windows expanded by Spark, a set of listens for each
  window and entity, Spark's default settings (200 shuffle partitions, state in memory), the rows upserted.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
from streaming.client import BulkProducer, BytesSerializer, KafkaConfig, ensure_topics, listen_topics
from streaming.events import EventBuilder
from streaming.transforms import counted, left_out_counts, parsed, recent_listens, window_changes
from streaming.trending_job import records
from streaming.trending_rules import TrendingRules
from streaming.trending_sink import TrendingSink

BATCHES = 4
"""Of the smaller topic, full ones of ours."""
MINUTES = 40
"""Of the smaller topic: longer than the state holds listens, so the last batches find it full."""
WARM_UP = 2
TURN = 4
TURNS = 2
"""Of each of the two, in a run."""
SECONDS_A_PLAY = 210
"""How long a listener is busy with a track: so many listeners make so many listens."""
_CHUNK = 10_000
RUNS = 4
"""Even, as who has the first turn that counts, and so the colder JVM, changes with every run."""
PLAIN_EVENTS = 100_000
"""Of a batch of the straightforward query: with 250,000 its heap was full, and it had not ended after ten minutes."""
_PATIENCE_SECONDS = 900
"""How long a variant waits for its turn: another may hang."""

Write = Callable[[DataFrame, int], None]


class Measured(NamedTuple):
    """What a variant did: so many listens, in so many seconds."""

    listens: int
    seconds: float


class Schedule(NamedTuple):
    """How many batches of each don't count, how many make a turn, and how many turns each has."""

    warm_up: int
    turn: int
    turns: int


def bench_trending(folder: Path, rows: int) -> str:
    """Ours and the straightforward query on `rows` listens, and that they count the same; ours and noop on more."""
    settings = load_settings(home=folder, jar_cache=JARS, trending_trigger_seconds=0)
    events = min(settings.trending_batch_events, rows // BATCHES)
    plain = min(events, PLAIN_EVENTS)
    jars = streams.fetch_jars(settings, with_spark=True)
    with streams.broker(settings) as config, warehouse(settings):

        def reads(names: Sequence[str], schedule: Schedule, **changes: Any) -> dict[str, Measured]:
            return alone(run, names, schedule, settings.model_copy(update=changes), config.bootstrap, jars)

        alone(fill, config, settings.kafka_topic, rows)
        singly: dict[str, Measured] = {}
        for name, size in (("ours", events), ("straightforward", plain)):
            changes = {"postgres_dbname": name, "trending_batch_events": size}
            singly |= reads([name], Schedule(1, rows // size - 1, 1), **changes)
        same = _windows(settings, "ours") == _windows(settings, "straightforward")
        longer = f"{settings.kafka_topic}-longer"
        ensure_topics(config, listen_topics(config, longer, settings.kafka_partitions))
        batches = WARM_UP + TURN * TURNS
        alone(fill, config, longer, events * batches, MINUTES * events * batches // rows)
        changes = {"kafka_topic": longer, "trending_batch_events": events}
        by_turns = []
        for number in range(RUNS):
            names = ["ours", "noop"] if number % 2 == 0 else ["noop", "ours"]
            by_turns.append(reads(names, Schedule(WARM_UP, TURN, TURNS), **changes, postgres_dbname=f"turns_{number}"))
    found = {name: [each[name] for each in by_turns] for name in ("ours", "noop")}
    lines = [[f"{name}, by turns", *_cells(runs)] for name, runs in found.items()]
    lines += [[f"{name}, alone", *_cells([measured])] for name, measured in singly.items()]
    shares = [_rate([ours]) / _rate([noop]) for ours, noop in zip(*found.values(), strict=True)]
    rate = _rate(found["ours"])
    verdict = (
        f"Ours: {rate / _rate(found['noop']):.3f} of noop (target: 0.9; "
        f"by runs {', '.join(f'{share:.3f}' for share in shares)}), "
        f"{_rate([singly['ours']]) / _rate([singly['straightforward']]):.1f} × the straightforward query (2; one run), "
        f"{rate:,.0f} listens a second (10,000); equal windows: {'yes' if same else 'NO'}. "
        f"At most {events:,} listens a batch, {plain:,} of the straightforward query."
    )
    title = f"The trending job, {rows:,} and {events * batches:,} listens of {rows // (MINUTES * 60):,} a second"
    return table_of(title, ["variant", "listens / s", "each run"], lines, verdict)


def _cells(runs: Sequence[Measured]) -> list[str]:
    return [f"{_rate(runs):,.0f}", ", ".join(f"{_rate([measured]):,.0f}" for measured in runs)]


def _rate(runs: Sequence[Measured]) -> float:
    return sum(measured.listens for measured in runs) / sum(measured.seconds for measured in runs)


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


def run(
    names: Sequence[str], schedule: Schedule, settings: Settings, bootstrap: str, jars: list[Path]
) -> dict[str, Measured]:
    """Read the whole topic by some variants, in turns; return what these took."""
    from music_pulse.embedded.java import java_home

    folder = settings.home / f"spark-{settings.postgres_dbname}"
    session = spark.session(
        names[0], java_home=java_home(settings.home), jars=jars, folder=folder, memory=settings.spark_memory
    )
    session.conf.set("spark.sql.streaming.numRecentProgressUpdates", "1000")  # all batches are read at the end
    rules = TrendingRules.from_settings(settings)
    config = KafkaConfig.from_settings(settings, bootstrap)
    turns = Turns(names, schedule)
    queries = {}
    with warehouse(settings) as filled:
        for name in names:
            variant = VARIANTS[name](session, filled, rules, folder / name)
            events = parsed(records(session, config, filled, None), rules)
            queries[name] = (
                variant.query(left_out_counts(events))
                .writeStream.outputMode("update")
                .foreachBatch(turns.of(name, variant))
                .option("checkpointLocation", str(folder / name))
                .trigger(availableNow=True)
                .start()
            )
        found = {}
        for name, started in queries.items():
            started.awaitTermination()
            reports = [json.loads(progress.json) for progress in started.recentProgress]
            counted_ones = range(schedule.warm_up, schedule.warm_up + schedule.turn * schedule.turns)
            listens = sum(report["numInputRows"] for report in reports if report["batchId"] in counted_ones)
            found[name] = Measured(listens, turns.seconds[name])
    session.stop()
    return found


class Turns:
    """Lets one query write at a time, for some batches: who had the last turn has the next one, too."""

    def __init__(self, names: Sequence[str], schedule: Schedule) -> None:
        first = range(schedule.warm_up)
        starts = (schedule.warm_up + schedule.turn * number for number in range(schedule.turns))
        spans = [first, *(range(start, start + schedule.turn) for start in starts)]
        self._turns = deque(
            (name, span) for number, span in enumerate(spans) for name in (names if number % 2 == 0 else names[::-1])
        )
        self._warm_up = first
        self._failure: str | None = None
        self._changed = threading.Condition()
        self.seconds: dict[str, float] = dict.fromkeys(names, 0.0)
        """Of a query's turns after the first one."""

    def of(self, name: str, variant: Variant) -> Write:
        """Return what writes a batch of `variant` when its turn has come."""
        began = 0.0

        def in_turn(listens: DataFrame, number: int) -> None:
            nonlocal began
            self._wait(name, number)
            if not self._turns:  # the rest of the topic, a few listens
                variant.write(listens, number)
                variant.flush()
                return
            span = self._turns[0][1]
            if number == span[0]:
                began = time.perf_counter()
            try:
                variant.write(listens, number)
                if number == span[-1]:
                    variant.flush()
            except BaseException:
                self._failure = name
                raise
            finally:
                with self._changed:
                    if number == span[-1]:
                        self.seconds[name] += 0.0 if span == self._warm_up else time.perf_counter() - began
                        self._turns.popleft()
                    self._changed.notify_all()

        return in_turn

    def _wait(self, name: str, number: int) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._failure or self._is_on(name, number), _PATIENCE_SECONDS):
                raise AssertionError(f"{name} waits in vain with batch {number}")
            if self._failure:
                raise AssertionError(f"{name}: {self._failure} has failed")

    def _is_on(self, name: str, number: int) -> bool:
        return not self._turns or (self._turns[0][0] == name and number in self._turns[0][1])


class Variant(NamedTuple):
    """A query on the parsed events, what writes a batch of it, and what waits until all are written."""

    query: Callable[[DataFrame], DataFrame]
    write: Write
    flush: Callable[[], object]


def _ours(session: SparkSession, settings: Settings, rules: TrendingRules, checkpoint: Path) -> Variant:
    sink = TrendingSink(settings.credentials("loader"), rules, checkpoint)
    return Variant(lambda events: recent_listens(counted(events), rules), sink, sink.flush)


def _noop(session: SparkSession, settings: Settings, rules: TrendingRules, checkpoint: Path) -> Variant:
    def write(listens: DataFrame, number: int) -> None:
        window_changes(listens, rules).write.format("noop").mode("overwrite").save()

    return Variant(lambda events: recent_listens(counted(events), rules), write, lambda: None)


def _straightforward(session: SparkSession, settings: Settings, rules: TrendingRules, checkpoint: Path) -> Variant:
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

    return Variant(lambda events: _guide_windows(counted(events), rules), write, lambda: None)


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


VARIANTS: dict[str, Callable[[SparkSession, Settings, TrendingRules, Path], Variant]] = {
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
