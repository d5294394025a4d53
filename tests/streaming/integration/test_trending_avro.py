"""The trending job on a topic in Avro: written by an old schema and a newer one, it counts what it counts of JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from doubles.registry import registry
from helpers import MakeWarehouse, listen, query
from pydantic import SecretStr
from stream_reference import read_topic
from streams import unique
from trending_reference import Sent, windows_of

from music_pulse import streams
from music_pulse.embedded.broker import Endpoint
from music_pulse.embedded.java import java_home
from music_pulse.settings import Settings
from streaming.client import (
    AvroSerializer,
    BulkProducer,
    BytesSerializer,
    JsonSerializer,
    KafkaConfig,
    Registry,
    RegistryConfig,
    RegistryError,
    dead_letter_topic,
    ensure_topics,
    listen_topics,
)
from streaming.events import SCHEMA_PATH, EventBuilder, ListenEvent, event_serializer, to_avro
from streaming.trending_job import run_trending
from streaming.trending_rules import TrendingRules

pytestmark = pytest.mark.integration

START = 1_700_000_040
MOOD = {"name": "mood", "type": "string", "default": "unknown"}


@pytest.fixture(scope="module")
def registry_url() -> Iterator[str]:
    with registry() as url:
        yield url


@pytest.fixture
def settings(
    make_warehouse: MakeWarehouse, tmp_path: Path, broker: Endpoint, registry_url: str, jar_cache: Path
) -> Settings:
    """A database and topics for one test; the topic holds Avro."""
    made = make_warehouse(
        kafka_topic=unique("avro"),
        kafka_bootstrap=broker.bootstrap,
        kafka_encoding="avro",
        schema_registry_url=registry_url,
        archive_dir=tmp_path,
        jar_cache=jar_cache,
    )
    config = KafkaConfig.from_settings(made)
    ensure_topics(config, listen_topics(config, made.kafka_topic, 3))
    return made


def history() -> list[ListenEvent]:
    """Listens of eight minutes by a few users; some are sent twice."""
    listens = [
        listen(START + second, f"Track {second % 7}", f"Ärtist {second % 3}", user=f"user {second % 11}", ms=180_000)
        for second in range(0, 480, 3)
    ]
    events, refused = EventBuilder().build([*listens, *listens[::10]], now=time.time())
    assert refused == []
    return events


def in_avro(settings: Settings, events: Sequence[ListenEvent]) -> list[bytes]:
    """Encode by turns by our schema and by that of a producer which is a version ahead."""
    newer = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    newer["fields"].append(MOOD)
    subject = f"{settings.kafka_topic}-value"
    ours = event_serializer(settings)
    theirs = AvroSerializer(Registry(RegistryConfig.from_settings(settings)), subject, json.dumps(newer))
    return [
        theirs.serialize({**to_avro(event), "mood": "glad"}) if number % 2 else ours.serialize(event)
        for number, event in enumerate(events)
    ]


def send(settings: Settings, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
    with BulkProducer(KafkaConfig.from_settings(settings), settings.kafka_topic, BytesSerializer()) as producer:
        producer.send_many(list(keys), list(values))


def count(settings: Settings, folder: Path, events: int) -> None:
    """Run the job, as a process, until it has counted or left out so many events."""
    jars = streams.fetch_jars(settings, with_spark=True)
    command = [sys.executable, "-m", "streaming.trending_job", "--bootstrap", str(settings.kafka_bootstrap)]
    command += ["--java-home", str(java_home(folder)), "--jars", os.pathsep.join(map(str, jars))]
    environment = {f"PULSE_{name.upper()}": _text(getattr(settings, name)) for name in settings.model_fields_set}
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--checkpoint", str(folder / "checkpoint")],
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + 180
        while sum(int(line.split(": ")[1].split()[0]) for line in _batches(log)) < events:
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
            time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def _text(value: Any) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _batches(log: Path) -> list[str]:
    lines = log.read_text("utf-8", "replace").splitlines()
    return [line.partition("batch ")[2] for line in lines if " events, " in line]


def windows(settings: Settings) -> dict[Any, Any]:
    rows = query(
        settings,
        "select extract(epoch from window_start)::bigint, entity_kind, entity_id::text, artist_name, track_name,"
        " listen_count, listener_count from raw.trending_windows",
    )
    return {row[:3]: row[3:] for row in rows}


def test_avro_of_several_schemas_gives_the_windows_of_json(settings: Settings, tmp_path: Path) -> None:
    events = history()
    bad = [
        b"\x00\x00\x00",
        b"\x00\x00\x01\x86\xa0" + in_avro(settings, events[:1])[0][5:],  # by a schema that nobody knows
        JsonSerializer().serialize(events[0]),
    ]
    send(settings, [event["user_name"].encode() for event in events], in_avro(settings, events))
    send(settings, [b"bad"] * len(bad), bad)
    count(settings, tmp_path, len(events) + len(bad))
    assert windows(settings) == windows_of([Sent(event, START + 480) for event in events], TrendingRules())
    assert query(settings, "select reason, sum(events) from raw.trending_left_out group by 1") == [("malformed", 3)]
    dead = read_topic(KafkaConfig.from_settings(settings), dead_letter_topic(settings.kafka_topic))
    assert sorted(record.value or b"" for record in dead) == sorted(bad)


def test_a_registry_that_is_away_is_told_before_spark_starts(settings: Settings, tmp_path: Path) -> None:
    away = settings.model_copy(update={"schema_registry_url": "http://127.0.0.1:1"})
    with pytest.raises(RegistryError, match="127.0.0.1:1 doesn't answer"):
        run_trending(
            away,
            bootstrap=str(away.kafka_bootstrap),
            java_home=tmp_path,
            jars=[],
            checkpoint=tmp_path / "checkpoint",
            stop=threading.Event(),
        )
