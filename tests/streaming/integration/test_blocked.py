"""Whoever is blocked while the trending job runs is counted no more; what was counted of the others goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import MakeWarehouse, listen, query
from streams import unique
from trending_process import TrendingProcess

from music_pulse.blocklist import block
from music_pulse.database import connect
from music_pulse.embedded.broker import Endpoint
from music_pulse.settings import Settings
from streaming.client import BulkProducer, BytesSerializer, JsonSerializer, KafkaConfig, ensure_topics, listen_topics
from streaming.events import EventBuilder

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(make_warehouse: MakeWarehouse, tmp_path: Path, broker: Endpoint, jar_cache: Path) -> Settings:
    made = make_warehouse(
        kafka_topic=unique("blocked"),
        kafka_bootstrap=broker.bootstrap,
        archive_dir=tmp_path / "archive",
        jar_cache=jar_cache,
        trending_trigger_seconds=0,
    )
    config = KafkaConfig.from_settings(made)
    ensure_topics(config, listen_topics(config, made.kafka_topic, 1))
    return made


@pytest.fixture
def job(settings: Settings, tmp_path: Path) -> Iterator[TrendingProcess]:
    process = TrendingProcess(settings, tmp_path)
    yield process
    process.kill()


def send(settings: Settings, second: int, track: str) -> None:
    """Send a listen of each of three users; Bob's comes last."""
    events, _ = EventBuilder().build(
        [listen(second + place, track, user=user) for place, user in enumerate(("Ann", "Cleo", "Bob"))], now=time.time()
    )
    with BulkProducer(KafkaConfig.from_settings(settings), settings.kafka_topic, BytesSerializer()) as producer:
        for event in events:
            producer.send(event["user_name"], JsonSerializer().serialize(event))


def listeners(settings: Settings, track: str) -> int:
    """Return how many listeners the fullest window of a track has."""
    [(found,)] = query(
        settings, "select coalesce(max(listener_count), 0) from raw.trending_windows where track_name = %s", [track]
    )
    return int(found)


def test_a_person_blocked_meanwhile_is_counted_no_more(settings: Settings, job: TrendingProcess) -> None:
    second = int(time.time()) // 60 * 60 - 120
    send(settings, second, "Before")
    job.wait_until(lambda: listeners(settings, "Before") == 3)
    with connect(settings.credentials("loader")) as connection:
        block(connection, settings, "ANN")
    job.wait_until(lambda: "the query starts anew" in job.log)
    send(settings, second + 10, "After")
    send(settings, second + 20, "Before")
    job.wait_until(lambda: job.events() == 9)
    job.stop()
    assert listeners(settings, "After") == 2
    rows = (
        "select distinct max(listen_count), max(listener_count) from raw.trending_windows where entity_kind = 'track'"
    )
    assert query(settings, f"{rows} and track_name = 'Before'") == [(3 + 2, 3)]
