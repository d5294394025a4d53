"""The counts of the trending windows: on a static frame, on a stream, and in plain Python, always the same."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from helpers import listen, query
from pyspark.sql import DataFrame, SparkSession
from trending_reference import Row, Sent, TrendingReference, Window, windows_of

from music_pulse.blocklist import Blocklist, keyed_hash
from music_pulse.database import connect
from music_pulse.embedded.java import java_home
from music_pulse.settings import Settings
from streaming import spark as spark_session
from streaming import trending_sink
from streaming.events import EventBuilder
from streaming.tables import create_stream_tables
from streaming.transforms import (
    BLOCKED,
    CLOCK_AHEAD,
    MALFORMED,
    counted,
    parsed,
    recent_listens,
    window_changes,
    without_blocked,
)
from streaming.trending_changes import Changes
from streaming.trending_rules import TrendingRules

START = 1_700_000_040
RULES = TrendingRules()
SCHEMA = "value binary, timestamp timestamp"

Counts = dict[Window, Row]


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    home = tmp_path_factory.mktemp("spark")
    session = spark_session.session("test", java_home=java_home(home), jars=[], folder=home / "tmp")
    yield session
    session.stop()


def test_ctrl_c_stays_the_callers(spark: SparkSession) -> None:
    assert spark.version
    assert "pyspark" not in getattr(signal.getsignal(signal.SIGINT), "__module__", "")


def sent(*listens: dict[str, Any], at: float | None = None) -> list[Sent]:
    """Make events of listens; the broker has each the moment it was listened to, or `at`."""
    events, refused = EventBuilder().build(listens, now=2_000_000_000)
    assert refused == []
    return [Sent(event, event["listened_at"] if at is None else at) for event in events]


def records(spark: SparkSession, events: Sequence[Sent]) -> DataFrame:
    return spark.createDataFrame([_record(json.dumps(event).encode(), time) for event, time in events], SCHEMA)


def _record(value: bytes | None, broker_time: float) -> tuple[bytes | None, datetime]:
    return value, datetime.fromtimestamp(broker_time, UTC)


def changes(listens: DataFrame, rules: TrendingRules, *, are_few: bool = False) -> Counts:
    if are_few:
        recent = listens.toArrow()
        listens = listens.sparkSession.createDataFrame(recent)
    found = Changes.of(window_changes(listens, rules).toArrow(), rules)
    united = found.windows.to_pylist()
    if are_few:
        few = Changes.of_few(recent, rules)
        assert few.windows.to_pylist() == united
        assert (few.slides, few.newest) == (found.slides, found.newest)
    return {
        (row["window_start"], row["kind"], str(UUID(bytes=row["id"]))): Row(
            row["artist_name"], row["track_name"], row["listens"] or 0, row["listeners"] or 0
        )
        for row in united
    }


def new_listens(spark: SparkSession, events: Sequence[Sent], rules: TrendingRules = RULES) -> DataFrame:
    return recent_listens(counted(parsed(records(spark, events), rules)), rules)


def batch_counts(spark: SparkSession, events: Sequence[Sent], rules: TrendingRules = RULES) -> Counts:
    return changes(new_listens(spark, events, rules), rules)


def test_a_listen_counts_in_every_window_that_holds_it(spark: SparkSession) -> None:
    [event] = sent(listen(START, "Vitamin C", "Can"))
    minute = START // 60 * 60
    assert batch_counts(spark, [event]) == {
        (start, kind, event.event[f"{kind}_id"]): Row("Can", "Vitamin C" if kind == "track" else None, 1, 1)
        for start in range(minute - 240, minute + 1, 60)
        for kind in ("track", "artist")
    }


def test_a_listen_counts_once_however_often_it_was_sent(spark: SparkSession) -> None:
    once = sent(listen(START))
    again = sent(listen(START, album="Album"), at=START + 30)
    assert batch_counts(spark, once + again) == batch_counts(spark, once)


def test_two_tracks_in_one_second_are_two_listens_of_the_artist(spark: SparkSession) -> None:
    events = sent(listen(START, "One"), listen(START, "Two"))
    rows = batch_counts(spark, events)
    artist = (START // 60 * 60, "artist", events[0].event["artist_id"])
    assert rows[artist] == Row("Artist", None, 2, 1)


def test_more_listens_than_the_cap_do_not_count_and_the_cap_is_each_window_s(spark: SparkSession) -> None:
    rules = TrendingRules(listens_per_user=3)
    flood = [listen(START + second, user="flooder") for second in range(0, 400, 10)]
    rows = batch_counts(spark, sent(*flood, listen(START, user="ann")), rules)
    assert {(row.listens, row.listeners) for (start, _, _), row in rows.items() if start == START // 60 * 60} == {
        (4, 2)
    }
    assert max(row.listens for row in rows.values()) == 4


def test_spellings_are_one_and_the_smallest_is_shown(spark: SparkSession) -> None:
    events = sent(listen(START, "halleluhwah", "CAN"), listen(START, "Halleluhwah", "Can", user="bob"))
    rows = batch_counts(spark, events)
    assert {(row.artist_name, row.track_name, row.listeners) for row in rows.values()} == {
        ("CAN", "Halleluhwah", 2),
        ("CAN", None, 2),
    }


@pytest.mark.parametrize(("ahead", "reason"), [(60, None), (61, CLOCK_AHEAD), (86_400 * 365_000, CLOCK_AHEAD)])
def test_a_clock_may_run_ahead_a_little(spark: SparkSession, ahead: int, reason: str | None) -> None:
    [event] = sent(listen(START))
    wrong = Sent({**event.event, "listened_at": START + ahead}, START)
    assert [row.left_out for row in parsed(records(spark, [wrong]), RULES).collect()] == [reason]


def _without(name: str) -> bytes:
    [(event, _)] = sent(listen(START))
    return json.dumps({key: value for key, value in event.items() if key != name}).encode()


def _with(**values: Any) -> bytes:
    [(event, _)] = sent(listen(START))
    return json.dumps({**event, **values}).encode()


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{",
        b"[]",
        b"7",
        b"null",
        b"\xff\xfe",
        _with()[:-3],
        *(_without(name) for name in ("version", "track_id", "user_key", "listened_at", "track_metadata")),
        _with(version=2),
        _with(version="1"),
        _with(listened_at="soon"),
        _with(listened_at=1_000_000_000),
        _with(listened_at=START + 0.5),
        _with(artist_id="no uuid"),
        _with(user_key=""),
        _with(track_metadata={"artist_name": "Can"}),
        _with(track_metadata={"artist_name": "Can", "track_name": "a\0b"}),
        _with(track_metadata={"artist_name": " ", "track_name": "Vitamin C"}),
        _with(track_metadata="Can"),
    ],
)
def test_what_is_no_event_is_malformed(spark: SparkSession, value: bytes | None) -> None:
    frame = spark.createDataFrame([_record(value, START)], SCHEMA)
    assert [row.left_out for row in parsed(frame, RULES).collect()] == [MALFORMED]


def test_fields_that_trending_does_not_know_are_passed_over(spark: SparkSession) -> None:
    frame = spark.createDataFrame([_record(_with(mood={"happy": [1, None]}), START)], SCHEMA)
    assert [row.left_out for row in parsed(frame, RULES).collect()] == [None]


def history(rng: random.Random, count: int, *, minutes: int, late: int) -> list[Sent]:
    """Invent listens of half an hour: repeats, a flooder, clocks ahead; the broker has them up to `late` s later."""
    listens = []
    for _ in range(count):
        second = START + rng.randrange(minutes * 60)
        user = rng.choice(["ann", "bob", "cleo", "dan", "eve", "Ève", "flooder", "flooder", "flooder"])
        artist = rng.choice(["Can", "CAN", "Neu!", "Faust"])
        track = "Flood" if user == "flooder" else rng.choice(["One", "Two", "two", "Three"])
        listens.append(listen(second, track, artist, user=user))
    events = [Sent(event, time + rng.randrange(late)) for event, time in sent(*listens)]
    events += rng.choices(events, k=count // 10)
    events += [Sent(event, time - 3600) for event, time in rng.choices(events, k=count // 50)]
    return sorted(events, key=lambda item: item.broker_time + rng.random() * 60)


RULE_SETS = [
    RULES,
    TrendingRules(window_minutes=6, slide_minutes=2, watermark_minutes=3, listens_per_user=2),
    TrendingRules(window_minutes=1, slide_minutes=1, watermark_minutes=0, listens_per_user=1),
]


@pytest.mark.parametrize("rules", RULE_SETS)
def test_a_static_frame_equals_plain_python(spark: SparkSession, rules: TrendingRules) -> None:
    events = history(random.Random(1), 2_000, minutes=30, late=900)
    expected = windows_of(events, rules)
    assert len(expected) > 100
    assert batch_counts(spark, events, rules) == expected


@pytest.mark.parametrize("rules", RULE_SETS)
def test_a_few_listens_are_counted_the_same_without_spark(spark: SparkSession, rules: TrendingRules) -> None:
    events = history(random.Random(2), 1_000, minutes=30, late=900)
    assert changes(new_listens(spark, events, rules), rules, are_few=True) == windows_of(events, rules)


def test_a_batch_of_nothing_changes_nothing(spark: SparkSession) -> None:
    few = Changes.of_few(new_listens(spark, []).toArrow(), RULES)
    assert (few.windows.num_rows, few.slides, few.newest) == (0, {}, None)


def test_a_batch_after_a_small_one_is_counted_as_a_few_if_it_is_one(
    spark: SparkSession, warehouse: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "metadata").write_text(json.dumps({"id": str(UUID(int=1))}), encoding="utf-8")
    with connect(warehouse.credentials("loader"), autocommit=True) as connection:
        create_stream_tables(connection)
    counted_by: list[str] = []

    class Watched(Changes):
        @classmethod
        def of(cls, rows: pa.Table, rules: TrendingRules) -> Changes:
            counted_by.append("Spark")
            return super().of(rows, rules)

        @classmethod
        def of_few(cls, listens: pa.Table, rules: TrendingRules) -> Changes:
            counted_by.append("Python")
            return super().of_few(listens, rules)

    monkeypatch.setattr(trending_sink, "Changes", Watched)
    monkeypatch.setattr(trending_sink, "_FEW_LISTENS", 20)
    monkeypatch.setattr(trending_sink, "_FEW_ROWS", 40)
    events = [
        sent(*(listen(START + 60 * batch, f"Track {each}", user=f"user {batch} {each}") for each in range(size)))
        for batch, size in enumerate((40, 2, 3, 40, 2, 3, 40))
    ]
    with closing(trending_sink.TrendingSink(warehouse.credentials("loader"), RULES, tmp_path)) as sink:
        for number, each in enumerate(events):
            sink(new_listens(spark, each), number)
    assert counted_by == ["Spark", "Spark", "Python", "Spark", "Spark", "Python", "Spark"]
    held = query(
        warehouse,
        "select extract(epoch from window_start)::bigint, entity_kind, entity_id::text, artist_name, track_name,"
        " listen_count, listener_count from raw.trending_windows",
    )
    assert {row[:3]: Row(*row[3:]) for row in held} == windows_of([event for each in events for event in each], RULES)


@pytest.mark.parametrize("rules", RULE_SETS)
@pytest.mark.parametrize("late", [120, 1500])
def test_a_stream_equals_plain_python(spark: SparkSession, tmp_path: Path, rules: TrendingRules, late: int) -> None:
    events = history(random.Random(late), 1_200, minutes=40, late=late)
    batches = [events[start : start + 170] for start in range(0, len(events), 170)]
    reference = TrendingReference(rules)
    for batch in batches:
        reference.count(batch)
    assert stream_counts(spark, tmp_path, batches, rules) == reference.windows()


def stream_counts(
    spark: SparkSession,
    folder: Path,
    batches: Sequence[Sequence[Sent]],
    rules: TrendingRules,
    after: Callable[[], object] = lambda: None,
) -> Counts:
    """Add up what a stream reports, a batch a file; windows take nothing once the watermark has passed them."""
    total: Counts = {}
    watermark = float("-inf")

    def add(listens: DataFrame, number: int) -> None:
        nonlocal watermark
        for window, row in changes(listens, rules, are_few=number % 2 == 1).items():
            if window[0] + rules.window_minutes * 60 > watermark and (row.listens or window in total):
                total[window] = _sum(total.get(window), row)
        batch = batches[number] if number < len(batches) else []  # the last one comes for the watermark alone
        newest = [event["listened_at"] for event, time in batch if event["listened_at"] <= time + 60]
        watermark = max([watermark, *(second - rules.watermark_minutes * 60 for second in newest)])
        after()

    source = folder / "source"
    source.mkdir()
    stream = spark.readStream.schema(SCHEMA).option("maxFilesPerTrigger", 1).parquet(str(source))
    for batch in batches:
        records(spark, batch).coalesce(1).write.mode("append").parquet(str(source))
    query = (
        recent_listens(counted(parsed(stream, rules)), rules)
        .writeStream.outputMode("update")
        .foreachBatch(add)
        .option("checkpointLocation", str(folder / "checkpoint"))
        .trigger(availableNow=True)
        .start()
    )
    query.awaitTermination()
    return total


def test_a_further_batch_runs_the_code_that_was_generated_for_the_one_before(
    spark: SparkSession, tmp_path: Path
) -> None:
    jvm: Any = spark.sparkContext._jvm
    compiled = jvm.org.apache.spark.metrics.source.CodegenMetrics.METRIC_COMPILATION_TIME()
    batches = [sent(listen(START + 60 * number, user=f"user {number}")) for number in range(6)]
    counts: list[int] = []
    stream_counts(spark, tmp_path, batches, RULES, after=lambda: counts.append(compiled.getCount()))
    # The one that is left is what the watermark has passed.
    assert [later - earlier for earlier, later in zip(counts[3:], counts[4:], strict=False)] == [1, 1]


def _sum(held: Row | None, added: Row) -> Row:
    if held is None:
        return added
    track = None if held.track_name is None else min(held.track_name, added.track_name or "", key=str.encode)
    artist = min(held.artist_name, added.artist_name, key=str.encode)
    return Row(artist, track, held.listens + added.listens, held.listeners + added.listeners)


def test_the_blocked_are_left_out_whatever_their_names_are(spark: SparkSession) -> None:
    named = sent(*(listen(START, user=name) for name in ["Bob", "Ünna 'x'", "ann", "李"]))
    given = [*named, *sent(listen(START, user="Ahead"), at=START - 99)]
    events = parsed(records(spark, given), RULES)
    secret = bytes(range(32))
    blocklist = Blocklist(secret, [keyed_hash(secret, name) for name in ("ÜNNA 'X'", "李", "ahead", "nobody")])
    found = {row["user_key"]: row["left_out"] for row in without_blocked(events, blocklist).collect()}
    assert found == {"bob": None, "ünna 'x'": BLOCKED, "ann": None, "李": BLOCKED, "ahead": CLOCK_AHEAD}
    assert without_blocked(events, Blocklist()) is events
