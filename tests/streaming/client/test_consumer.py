"""Both consumers, against a real broker: what holds for one must hold for the other."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from streams import ConsumerClass, MakeTopic, unique

from streaming.client import (
    BulkProducer,
    BytesSerializer,
    CommitStrategy,
    Consumer,
    EventConsumer,
    KafkaConfig,
    Partition,
    StreamMetrics,
    UnknownTopicError,
    measure_lag,
)

ROOT = Path(__file__).resolve().parents[3]


def fill(config: KafkaConfig, topic: str, numbers: range) -> None:
    """Send numbers, spread over the partitions."""
    with BulkProducer(config, topic, BytesSerializer()) as producer:
        producer.send_many([b"%d" % (number % 50) for number in numbers], [b"%d" % number for number in numbers])


def numbers_of(batch: Any) -> list[int]:
    return [int(value) for value in batch.values()]


@pytest.fixture
def make(config: KafkaConfig, consumer_class: ConsumerClass, topic: str, group: str) -> Callable[..., EventConsumer]:
    """Make a consumer of `topic` in `group`."""

    def consumer(**options: Any) -> EventConsumer:
        return consumer_class(config, [topic], group, **{"max_wait": 0.2, **options})

    return consumer


def read(consumer: EventConsumer, count: int, seconds: float = 30) -> list[int]:
    """Read at least `count` numbers, whole batches, and commit them."""
    found: list[int] = []
    stop = threading.Event()
    deadline = time.monotonic() + seconds
    for batch in consumer.batches(stop, idle=True):
        found += numbers_of(batch)
        if len(found) >= count or time.monotonic() > deadline:
            stop.set()
    return found


def test_a_batch_knows_its_records_values_and_where_to_go_on(
    make: Callable[..., EventConsumer], config: KafkaConfig, topic: str
) -> None:
    fill(config, topic, range(100))
    offsets: dict[Partition, int] = {}
    stop = threading.Event()
    sizes = []
    with make(max_records=30) as consumer:
        for batch in consumer.batches(stop):
            records = batch.records()
            assert batch.values() == [record.value for record in records]
            assert len(batch) == len(records)
            expected = {Partition(record.topic, record.partition): record.offset + 1 for record in records}
            assert batch.next_offsets() == expected
            offsets.update(expected)
            sizes.append(len(batch))
            if sum(sizes) == 100:
                stop.set()
    assert max(sizes) <= 30
    assert sum(offsets.values()) == 100
    assert {partition.number for partition in offsets} == {0, 1, 2}


def test_a_stop_in_mid_batch_finishes_and_commits_it(
    make: Callable[..., EventConsumer], config: KafkaConfig, topic: str
) -> None:
    fill(config, topic, range(100))
    stop = threading.Event()
    with make(max_records=30) as consumer:
        first = []
        for batch in consumer.batches(stop):
            stop.set()
            first += numbers_of(batch)
    with make() as consumer:
        rest = read(consumer, 100 - len(first))
    assert sorted(first + rest) == list(range(100))


def test_after_a_stop_everything_is_committed_however_quick_it_was(
    make: Callable[..., EventConsumer], config: KafkaConfig, topic: str, group: str
) -> None:
    fill(config, topic, range(500))
    with make(max_records=10) as consumer:
        read(consumer, 500)
    assert [lag.events for lag in measure_lag(config, [group], [topic])] == [0, 0, 0]


def test_a_batch_that_failed_is_read_again_whole(
    make: Callable[..., EventConsumer], config: KafkaConfig, topic: str
) -> None:
    fill(config, topic, range(100))
    failed: list[int] = []

    def fail(batch: Any) -> None:
        failed.extend(numbers_of(batch))
        raise RuntimeError("the sink is down")

    with suppress(RuntimeError), make(max_records=30) as consumer:
        for batch in consumer.batches():
            fail(batch)
    with make() as consumer:
        assert sorted(read(consumer, 100)) == list(range(100))
    assert failed


def test_a_batch_that_takes_its_time_is_no_commit_that_fails(
    consumer_class: ConsumerClass, config: KafkaConfig, topic: str, group: str
) -> None:
    fill(config, topic, range(5_000))
    hasty = replace(config, delivery_timeout=0.2)
    stop = threading.Event()
    seen: list[int] = []
    with consumer_class(hasty, [topic], group, max_wait=0.2, max_records=100) as consumer:  # type: ignore[call-arg]
        for number, batch in enumerate(consumer.batches(stop)):
            seen += numbers_of(batch)
            time.sleep(0.3)
            if number == 4:
                stop.set()
    with consumer_class(config, [topic], group, max_wait=0.2) as consumer:  # type: ignore[call-arg]
        seen += read(consumer, 5_000 - len(seen))
    assert sorted(seen) == list(range(5_000))


def test_each_record_is_committed_before_the_next(
    consumer_class: ConsumerClass, config: KafkaConfig, make_topic: MakeTopic, group: str
) -> None:
    topic = make_topic(partitions=1)
    fill(config, topic, range(20))
    seen: list[int] = []

    def consumer() -> EventConsumer:
        return consumer_class(config, [topic], group, commit=CommitStrategy.EACH_RECORD, max_wait=0.2)  # type: ignore[call-arg]

    with consumer() as first:
        for batch in first.batches():
            seen += numbers_of(batch)
            if len(seen) == 8:
                break  # the eighth is not dealt with
    with consumer() as second:
        assert read(second, 13) == list(range(7, 20))
    assert seen == list(range(8))


class Sink:
    """Keeps rows and offsets in one step, as a database does in one transaction."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.offsets: dict[Partition, int] = {}
        self.asked: list[Partition] = []

    def starts(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        self.asked += partitions
        return {partition: self.offsets[partition] for partition in partitions if partition in self.offsets}

    def write(self, batch: Any) -> None:
        self.rows += numbers_of(batch)
        self.offsets.update(batch.next_offsets())

    def drain(self, consumer: EventConsumer, count: int) -> None:
        """Write until there are `count` rows, then die without a word to the group."""
        deadline = time.monotonic() + 30
        for batch in consumer.batches(idle=True):
            self.write(batch)
            if len(self.rows) >= count or time.monotonic() > deadline:
                return


def test_offsets_kept_by_the_sink_decide_where_to_go_on(
    make: Callable[..., EventConsumer], config: KafkaConfig, topic: str
) -> None:
    fill(config, topic, range(100))
    sink = Sink()
    options = {"commit": CommitStrategy.EXTERNAL, "start_offsets": sink.starts, "max_records": 10}
    with make(**options) as consumer:
        sink.drain(consumer, 50)
    assert sorted(sink.asked) == [Partition(topic, number) for number in range(3)]
    with make(**options) as consumer:
        sink.drain(consumer, 100)
    assert sorted(sink.rows) == list(range(100))  # each once, though the group was told less than was written


def test_the_sink_may_go_back_whatever_the_group_was_told(
    make: Callable[..., EventConsumer], config: KafkaConfig, topic: str
) -> None:
    fill(config, topic, range(100))
    with make() as consumer:
        read(consumer, 100)  # the group has committed the end
    sink = Sink()
    sink.offsets = {Partition(topic, 0): 5, Partition(topic, 1): 0}  # nothing of the third: from its beginning
    with make(commit=CommitStrategy.EXTERNAL, start_offsets=sink.starts) as consumer:
        sink.drain(consumer, 95)
    assert len(sink.rows) == len(set(sink.rows)) == 95


def test_a_sink_that_can_not_say_where_to_start_ends_the_consumer(make: Callable[..., EventConsumer]) -> None:
    def down(partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        raise ConnectionError("the database is down")

    with (
        make(commit=CommitStrategy.EXTERNAL, start_offsets=down) as consumer,
        pytest.raises(ConnectionError, match="the database is down"),
    ):
        list(consumer.batches())


def test_start_offsets_and_strategy_belong_together(make: Callable[..., EventConsumer]) -> None:
    for options in ({"commit": CommitStrategy.EXTERNAL}, {"start_offsets": Sink().starts}):
        with pytest.raises(ValueError, match="EXTERNAL"):
            make(**options)


def test_a_new_group_may_start_at_the_end(make: Callable[..., EventConsumer], config: KafkaConfig, topic: str) -> None:
    fill(config, topic, range(50))
    stop = threading.Event()
    found: list[int] = []
    with make(from_latest=True) as consumer:
        for batch in consumer.batches(stop, idle=True):
            found += numbers_of(batch)
            if not found and len(consumer.held) == 3 and len(batch) == 0:
                fill(config, topic, range(50, 60))
            if len(found) >= 10:
                stop.set()
    assert set(found) == set(range(50, 60))


def test_a_topic_that_is_not_there_is_told_at_once(consumer_class: ConsumerClass, config: KafkaConfig) -> None:
    with pytest.raises(UnknownTopicError, match="nowhere"):
        consumer_class(replace(config, connect_timeout=0.5), ["nowhere"], unique("group"))  # type: ignore[call-arg]


def test_a_join_that_kafka_python_forgot_is_made_again(config: KafkaConfig, topic: str, group: str) -> None:
    fill(config, topic, range(10))
    with Consumer(config, [topic], group, max_wait=0.1) as consumer:
        read(consumer, 10)
        coordinator = consumer._client._coordinator
        coordinator.rejoining = True  # as a poll leaves it that ends just before the group's answer comes
        coordinator._disable_heartbeat()
        fill(config, topic, range(10, 20))
        assert sorted(read(consumer, 10)) == list(range(10, 20))
        assert not coordinator.rejoining


def test_metrics_count_events_batches_and_rebalances(
    make: Callable[..., EventConsumer], config: KafkaConfig, topic: str, group: str
) -> None:
    fill(config, topic, range(100))
    registry = CollectorRegistry()
    with make(metrics=StreamMetrics(registry)) as consumer:
        read(consumer, 100)
        held = registry.get_sample_value("pulse_kafka_partitions", {"group": group})
    value = registry.get_sample_value
    assert held == 3
    assert value("pulse_kafka_partitions", {"group": group}) == 0
    assert value("pulse_kafka_consumed_total", {"group": group}) == 100
    assert value("pulse_kafka_batch_events_sum", {"group": group}) == 100
    assert value("pulse_kafka_rebalances_total", {"group": group, "kind": "assigned"}) == 1
    assert value("pulse_kafka_rebalances_total", {"group": group, "kind": "revoked"}) == 1


def test_members_that_come_and_go_in_order_repeat_and_lose_nothing(
    make: Callable[..., EventConsumer], config: KafkaConfig, topic: str
) -> None:
    """One member reads, a second joins it, the first leaves: every event is dealt with once."""
    seen: list[int] = []
    failures: list[BaseException] = []

    def run(consumer: EventConsumer, stop: threading.Event) -> None:
        try:
            with consumer:
                for batch in consumer.batches(stop):
                    seen.extend(numbers_of(batch))
        except BaseException as error:
            failures.append(error)

    def start() -> tuple[EventConsumer, threading.Event, threading.Thread]:
        consumer, stop = make(max_records=20, session_timeout=6), threading.Event()
        thread = threading.Thread(target=run, args=(consumer, stop))
        thread.start()
        return consumer, stop, thread

    members = [start()]
    try:
        wait_for(lambda: len(members[0][0].held) == 3)
        fill(config, topic, range(200))
        members.append(start())
        sent = 200
        while not all(len(consumer.held) for consumer, _, _ in members):
            fill(config, topic, range(sent, sent + 50))
            sent += 50
            assert sent < 20_000
        wait_for(lambda: sum(len(consumer.held) for consumer, _, _ in members) == 3)
        members[0][1].set()
        members[0][2].join(30)
        fill(config, topic, range(sent, sent + 100))
        wait_for(lambda: len(set(seen)) == sent + 100)
    finally:
        for _, stop, thread in members:
            stop.set()
            thread.join(30)
    assert not failures
    assert Counter(seen) == Counter(range(sent + 100))


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


MEMBER = """
import sys
from streaming import client
kind, bootstrap, topic, group = sys.argv[1:]
tell = lambda _: print("held", *(partition.number for partition in consumer.held), flush=True)
consumer = getattr(client, kind)(
    client.KafkaConfig(bootstrap), [topic], group, max_wait=0.2, session_timeout=6, on_assigned=tell, on_revoked=tell
)
for batch in consumer.batches():
    print("got", *(value.decode() for value in batch.values()), flush=True)
"""


class Member:
    """A member of a group in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.held: set[int] = set()
        self.got: list[int] = []
        self._process = subprocess.Popen(
            [sys.executable, "-c", MEMBER, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            what, *numbers = line.split()
            if what == "held":
                self.held = set(map(int, numbers))
            else:
                self.got += map(int, numbers)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join(10)


@pytest.fixture
def members(consumer_class: ConsumerClass, config: KafkaConfig, topic: str, group: str) -> Iterator[list[Member]]:
    """Three members of one group."""
    started = [Member(consumer_class.__name__, config.bootstrap, topic, group) for _ in range(3)]
    yield started
    for member in started:
        member.kill()


@pytest.mark.integration
def test_three_members_share_the_partitions_and_take_over_from_one_that_is_killed(
    members: list[Member], config: KafkaConfig, topic: str
) -> None:
    wait_for(lambda: sorted(sorted(member.held) for member in members) == [[0], [1], [2]])
    fill(config, topic, range(300))
    wait_for(lambda: sum(len(member.got) for member in members) == 300)
    assert all(member.got for member in members)
    victim, *others = members
    victim.kill()
    fill(config, topic, range(300, 600))
    wait_for(lambda: {0, 1, 2} == set.union(*(member.held for member in others)))
    wait_for(lambda: set(range(300, 600)) <= {number for member in others for number in member.got})
    counts = Counter(number for member in members for number in member.got)
    assert set(counts) == set(range(600))
    repeated = {number for number, count in counts.items() if count > 1}
    assert repeated <= set(victim.got)  # its last batch, if it died before the commit
