"""Sink and trending job on a broker that wants TLS and a login: Spark's client and ours get in by the same settings."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import MakeWarehouse, listen, query
from streams import unique
from trending_process import TrendingProcess

from music_pulse.embedded import broker as embedded
from music_pulse.embedded.broker import EmbeddedBroker
from music_pulse.settings import Settings
from streaming.client import (
    BulkProducer,
    BytesSerializer,
    JsonSerializer,
    KafkaConfig,
    ensure_topics,
    listen_topics,
)
from streaming.events import EventBuilder, event_key
from streaming.sinks import run_listens_sink

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

LISTENS = 30


@pytest.fixture
def settings(make_warehouse: MakeWarehouse, tmp_path: Path, jar_cache: Path) -> Iterator[Settings]:
    home = tmp_path / "kafka"
    with embedded.running(home, jar_cache=jar_cache, secure=True) as endpoint:
        login = EmbeddedBroker(home, jar_cache, secure=True).admin()
        made = make_warehouse(
            kafka_topic=unique("secured"),
            kafka_bootstrap=endpoint.bootstrap,
            kafka_security_protocol="SASL_SSL",
            kafka_ssl_cafile=login.cafile,
            kafka_sasl_username=login.username,
            kafka_sasl_password=login.password,
            archive_dir=tmp_path / "archive",
            jar_cache=jar_cache,
        )
        config = KafkaConfig.from_settings(made)
        ensure_topics(config, listen_topics(config, made.kafka_topic, 1))
        yield made
    embedded.shut_down(home)


def test_both_read_what_was_sent(settings: Settings, tmp_path: Path) -> None:
    now = int(time.time())
    listens = [listen(now - number, f"Track {number}", user=f"user {number}") for number in range(LISTENS)]
    events, _ = EventBuilder().build(listens, now=now)
    values = [JsonSerializer().serialize(event) for event in events]
    with BulkProducer(KafkaConfig.from_settings(settings), settings.kafka_topic, BytesSerializer()) as producer:
        producer.send_many([*map(event_key, events), b"bad"], [*values, b"{"])
    stop = threading.Event()
    run_listens_sink(settings, stop=stop, progress=lambda _: stop.set())
    assert query(settings, "select sum(listens), sum(refused) from raw.stream_loads") == [(LISTENS, 1)]
    life = TrendingProcess(settings, tmp_path)
    try:
        life.wait_until(lambda: life.events() > LISTENS)
        life.stop()
    finally:
        life.kill()
    counted = query(
        settings,
        "select count(distinct entity_id) from raw.trending_windows where entity_kind = 'track'",
    )
    assert counted == [(LISTENS,)]
    # Read again by Spark's plain reader, which has to log in, too.
    assert query(settings, "select reason, events from raw.trending_left_out") == [("malformed", 1)]
