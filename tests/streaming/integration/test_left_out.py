"""What the trending job leaves out is counted once and set aside, also if it is killed before it could tell."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from helpers import MakeWarehouse, listen, query
from stream_reference import read_topic
from streams import unique
from trending_process import TrendingProcess
from trending_reference import Sent, TrendingReference

from music_pulse.embedded.broker import Endpoint
from music_pulse.settings import Settings
from streaming.client import (
    BulkProducer,
    BytesSerializer,
    JsonSerializer,
    KafkaConfig,
    Record,
    dead_letter_topic,
    ensure_topics,
    listen_topics,
)
from streaming.client.dead_letters import Origin
from streaming.events import EventBuilder
from streaming.trending_rules import TrendingRules

pytestmark = pytest.mark.integration

BATCH = 100
RULES = TrendingRules()
BAD = [b"", b"{", b"[]", b"\xff\xfe", b'{"version": 1, "text": "' + b"x" * 900_000 + b'"}']
HEADERS = [("client", b"one"), ("client", b"\xff")]

Sendings = list[bytes]


@pytest.fixture
def settings(make_warehouse: MakeWarehouse, tmp_path: Path, broker: Endpoint, jar_cache: Path) -> Settings:
    """A topic of one partition, so that it is known what a batch holds."""
    made = make_warehouse(
        kafka_topic=unique("left-out"),
        kafka_bootstrap=broker.bootstrap,
        archive_dir=tmp_path / "archive",
        jar_cache=jar_cache,
        trending_batch_events=BATCH,
        trending_trigger_seconds=0,
    )
    config = KafkaConfig.from_settings(made)
    ensure_topics(config, listen_topics(config, made.kafka_topic, 1))
    return made


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[list[TrendingProcess]]:
    """Lives of the job; none is left at the end."""
    started: list[TrendingProcess] = []
    yield started
    for life in started:
        life.kill()


def batches(now: int) -> list[Sendings]:
    """Two hours in steps of half an hour, with listens of all ages among the newer ones; some events are no listens."""
    made: list[Sendings] = []
    for number in range(5):
        newest = now - (4 - number) * 1_800
        ages = [second * 4 for second in range(60)] + [600 + second * 262 for second in range(35)]
        listens = [listen(newest - age, f"Track {age % 5}", user=f"user {number} {age}") for age in ages]
        if number == 1:
            listens[0] = listen(int(time.time()) + 86_400)
        events, refused = EventBuilder().build(listens, now=2_000_000_000)
        assert refused == []
        made.append([JsonSerializer().serialize(event) for event in events] + BAD)
        assert len(made[-1]) == BATCH
    return made


def send(settings: Settings, values: Sendings) -> None:
    with BulkProducer(KafkaConfig.from_settings(settings), settings.kafka_topic, BytesSerializer()) as producer:
        for value in values:
            producer.send("ann", value, HEADERS)


def expected(settings: Settings) -> tuple[TrendingReference, Counter[str]]:
    """Count the topic's batches in plain Python; late is what comes when its oldest window is closed."""
    reference, found = TrendingReference(RULES), Counter[str]()
    records = read_topic(KafkaConfig.from_settings(settings), settings.kafka_topic)
    for start in range(0, len(records), BATCH):
        good = [record for record in records[start : start + BATCH] if record.value not in BAD]
        found["malformed"] += BATCH - len(good)
        sent = [Sent(json.loads(record.value or b""), record.timestamp_ms / 1000) for record in good]
        oldest_ends = [event["listened_at"] // 60 * 60 + 60 for event, _ in sent]
        found["late"] += sum(end <= reference.watermark for end in oldest_ends)
        reference.count(sent)
    return reference, found + reference.left_out


def windows(settings: Settings) -> dict[Any, Any]:
    rows = query(
        settings,
        "select extract(epoch from window_start)::bigint, entity_kind, entity_id::text, artist_name, track_name,"
        " listen_count, listener_count from raw.trending_windows",
    )
    return {row[:3]: row[3:] for row in rows}


def left_out(settings: Settings) -> Counter[str]:
    return Counter(dict(query(settings, "select reason, sum(events)::int from raw.trending_left_out group by 1")))


def dead_letters(settings: Settings) -> list[Record]:
    return read_topic(KafkaConfig.from_settings(settings), dead_letter_topic(settings.kafka_topic))


def test_what_a_killed_job_could_not_tell_its_successor_tells(
    settings: Settings, lives: list[TrendingProcess], tmp_path: Path
) -> None:
    for values in batches(int(time.time())):
        send(settings, values)
    lives.append(TrendingProcess(settings, tmp_path, "before it is told"))
    lives[-1].wait_killed()
    assert windows(settings) != {}
    assert set(left_out(settings)) <= {"late"}
    lives.append(TrendingProcess(settings, tmp_path))
    lives[-1].wait_until(lambda: len(dead_letters(settings)) == 5 * len(BAD))
    lives[-1].stop()

    reference, counts = expected(settings)
    assert windows(settings) == reference.windows()
    found = left_out(settings)
    assert found["very late"] > 30
    assert found["late"] > 10
    found["late"] += found.pop("very late")
    assert found == counts
    letters = dead_letters(settings)
    assert Counter(letter.value or b"" for letter in letters) == Counter(BAD * 5)
    for letter in letters:
        origin = Origin.of(letter.headers)
        assert origin is not None
        assert (letter.headers[:2], origin.reason, letter.key) == (HEADERS, "malformed", b"ann")

    # A checkpoint that begins later sets nothing aside again of what came before.
    before = len(letters)
    begin = datetime.now(UTC).isoformat()
    send(settings, [b"another"])
    other = tmp_path / "other"
    (other / "checkpoint").mkdir(parents=True)
    (other / "checkpoint" / "begin.json").write_text(json.dumps(begin), encoding="utf-8")
    lives.append(TrendingProcess(settings, other))
    lives[-1].wait_until(lambda: len(dead_letters(settings)) > before)
    lives[-1].stop()
    assert [letter.value for letter in dead_letters(settings)[before:]] == [b"another"]
