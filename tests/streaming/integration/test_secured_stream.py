"""Sink and trending job on a broker that wants TLS and a login: Spark's client and ours get in by the same settings.

Whoever is blocked while the job runs is counted no more; what was counted of the others goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import MakeWarehouse, listen, query
from streams import unique
from trending_process import TrendingProcess

from music_pulse.blocklist import block
from music_pulse.database import connect
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
            trending_trigger_seconds=0,
        )
        config = KafkaConfig.from_settings(made)
        ensure_topics(config, listen_topics(config, made.kafka_topic, 1))
        yield made
    embedded.shut_down(home)


@pytest.fixture
def job(settings: Settings, tmp_path: Path) -> Iterator[TrendingProcess]:
    process = TrendingProcess(settings, tmp_path)
    yield process
    process.kill()


def send(settings: Settings, listens: list[dict[str, Any]], *bad: bytes) -> None:
    events, refused = EventBuilder().build(listens, now=time.time())
    assert refused == []
    values = [JsonSerializer().serialize(event) for event in events]
    with BulkProducer(KafkaConfig.from_settings(settings), settings.kafka_topic, BytesSerializer()) as producer:
        producer.send_many([*map(event_key, events), *(b"bad" for _ in bad)], [*values, *bad])


def test_one_life_of_both(settings: Settings, job: TrendingProcess, subtests: pytest.Subtests) -> None:
    """A Spark takes half a minute to start."""
    with subtests.test("both read what was sent"):
        both_read_what_was_sent(settings, job)
    with subtests.test("a person blocked meanwhile is counted no more"):
        a_person_blocked_meanwhile_is_counted_no_more(settings, job)


def both_read_what_was_sent(settings: Settings, job: TrendingProcess) -> None:
    now = int(time.time())
    send(settings, [listen(now - number, f"Track {number}", user=f"user {number}") for number in range(LISTENS)], b"{")
    stop = threading.Event()
    run_listens_sink(settings, stop=stop, progress=lambda _: stop.set())
    assert query(settings, "select sum(listens), sum(refused) from raw.stream_loads") == [(LISTENS, 1)]
    job.wait_until(lambda: job.events() > LISTENS)
    counted = query(
        settings,
        "select count(distinct entity_id) from raw.trending_windows where entity_kind = 'track'",
    )
    assert counted == [(LISTENS,)]
    # Read again by Spark's plain reader, which has to log in, too.
    assert query(settings, "select reason, events from raw.trending_left_out") == [("malformed", 1)]


def a_person_blocked_meanwhile_is_counted_no_more(settings: Settings, job: TrendingProcess) -> None:
    second = int(time.time()) // 60 * 60 - 120
    send(settings, of_three(second, "Before"))
    job.wait_until(lambda: listeners(settings, "Before") == 3)
    with connect(settings.credentials("loader")) as connection:
        block(connection, settings, "ANN")
    job.wait_until(lambda: "the query starts anew" in job.log)
    send(settings, of_three(second + 10, "After"))
    send(settings, of_three(second + 20, "Before"))
    job.wait_until(lambda: job.events() == LISTENS + 1 + 9)
    job.stop()
    assert listeners(settings, "After") == 2
    rows = (
        "select distinct max(listen_count), max(listener_count) from raw.trending_windows where entity_kind = 'track'"
    )
    assert query(settings, f"{rows} and track_name = 'Before'") == [(3 + 2, 3)]


def of_three(second: int, track: str) -> list[dict[str, Any]]:
    """Return a listen of each of three users; Bob's comes last."""
    return [listen(second + place, track, user=user) for place, user in enumerate(("Ann", "Cleo", "Bob"))]


def listeners(settings: Settings, track: str) -> int:
    """Return how many listeners the fullest window of a track has."""
    [(found,)] = query(
        settings, "select coalesce(max(listener_count), 0) from raw.trending_windows where track_name = %s", [track]
    )
    return int(found)
