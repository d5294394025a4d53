"""What scrobblers send, over HTTP, with a real broker behind it: acknowledged when it is there, whole or not at all."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers import MakeWarehouse, query
from stream_reference import read_topic
from streams import unique
from web_server import Site, running

from music_pulse.embedded.broker import Endpoint
from music_pulse.embedded.plumbing import wait_until
from music_pulse.errors import InputError
from music_pulse.serve import create_token, ingest
from music_pulse.settings import Settings
from streaming import sinks
from streaming.client import BrokerUnreachableError, KafkaConfig, StreamError
from streaming.sinks import run_listens_sink
from streaming.submissions import SubmissionStore, Submitted

pytestmark = pytest.mark.integration

START = 1_690_000_000


def listens(first: int, count: int) -> list[dict[str, Any]]:
    return [
        {"listened_at": START + second, "track_metadata": {"artist_name": "Can", "track_name": f"Part {second}"}}
        for second in range(first, first + count)
    ]


@pytest.fixture(scope="module")
def settings(make_warehouse: MakeWarehouse, tmp_path_factory: pytest.TempPathFactory, broker: Endpoint) -> Settings:
    """A database and a topic."""
    return make_warehouse(
        kafka_topic=unique("listens"),
        kafka_bootstrap=broker.bootstrap,
        archive_dir=tmp_path_factory.mktemp("archive"),
        serve_rate_limit=1_000_000,
    )


@pytest.fixture(scope="module")
def site(settings: Settings) -> Iterator[Site]:
    with ingest(settings, name=unique("test")) as into, running(settings, into) as address:
        yield Site(address, settings, create_token(settings, "ann"))


def sent(settings: Settings) -> Counter[bytes | None]:
    """Count the committed events of the topic by their key."""
    return Counter(record.key for record in read_topic(KafkaConfig.from_settings(settings), settings.kafka_topic))


def test_acknowledged_is_in_the_topic_and_lands_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "BATCH_SECONDS", 0.1)
    bodies = [{"listen_type": "import", "payload": listens(100 * number, 100)} for number in range(8)]
    with ThreadPoolExecutor(8) as pool:  # twice each: repeats change nothing
        answers = list(pool.map(site.submit, bodies * 2))
    assert [answer.json() for answer in answers] == [{"status": "ok"}] * 16
    assert sent(site.settings) == {b"ann": 1600}
    assert query(site.settings, "select count(*) from raw.stream_listens") == [(0,)]
    stop = threading.Event()
    sink = threading.Thread(target=run_listens_sink, args=[site.settings], kwargs={"stop": stop})
    sink.start()
    try:
        assert wait_until(lambda: query(site.settings, "select count(*) from raw.stream_listens") == [(800,)], 60)
    finally:
        stop.set()
        sink.join(60)
    [(first, last, users)] = query(
        site.settings,
        "select extract(epoch from min(listened_at))::int, extract(epoch from max(listened_at))::int,"
        " count(distinct user_name) from raw.stream_listens",
    )
    assert (first, last, users) == (START, START + 799, 1)


def test_health_names_the_topic(site: Site) -> None:
    part = site.get("/health").json()["parts"]["ingest"]
    assert part == {"ready": True, "detail": f"topic {site.settings.kafka_topic}"}


def test_of_a_batch_that_fails_nothing_is_there_and_the_next_one_is_taken(settings: Settings) -> None:
    config = KafkaConfig.from_settings(settings)
    store = SubmissionStore(settings, lambda: config, transactional_id=unique("test"))
    before = sent(settings)
    try:
        [refused, taken] = store.store(
            [
                Submitted("bob", [*listens(0, 2), {"listened_at": 1, "track_metadata": {}}]),
                Submitted("bob", listens(0, 2)),
            ]
        )
        assert isinstance(refused, InputError)
        assert taken is None
        assert sent(settings) == before + Counter({b"bob": 2})
        assert store._producer is not None
        fenced = SubmissionStore(settings, lambda: config, transactional_id=store._transactional_id)
        assert fenced.store([Submitted("carl", listens(0, 1))]) == [None]
        with pytest.raises(StreamError):
            store.store([Submitted("dora", listens(0, 2))])
        assert sent(settings) == before + Counter({b"bob": 2, b"carl": 1})
        assert store.store([Submitted("dora", listens(0, 2))]) == [None]
        assert sent(settings) == before + Counter({b"bob": 2, b"carl": 1, b"dora": 2})
        fenced.close()
    finally:
        store.close()


def test_a_broker_that_is_away_is_no_reason_to_take_listens(settings: Settings) -> None:
    away = KafkaConfig("127.0.0.1:9", connect_timeout=0.5, delivery_timeout=1)
    store = SubmissionStore(settings, lambda: away, transactional_id=unique("test"))
    before = query(settings, "select count(*) from raw.stream_listens")
    try:
        with pytest.raises(BrokerUnreachableError):
            store.store([Submitted("ann", listens(5000, 1))])
        with pytest.raises(BrokerUnreachableError):
            store.check()
    finally:
        store.close()
    assert query(settings, "select count(*) from raw.stream_listens") == before
