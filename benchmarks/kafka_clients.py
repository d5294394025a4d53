"""python -m benchmarks.kafka_clients BOOTSTRAP [EVENTS]: producing and consuming, ours beside the bare clients.

Values of 300 bytes, keys of 100 users, three partitions, acks=all, one process. The variants take turns within one
run, since the machine's speed drifts, and the median of the rounds counts. CPU is that of this process, all threads.

* default: as the client's own documentation writes it (confluent-kafka: a callback and a `poll(0)` per event when
  producing, one `poll` per event when consuming);
* tuned: the settings that ours takes, in the barest loop;
* ours: `BulkProducer.send_many`, `BulkConsumer.batches` with each value taken out and each batch committed.
"""

from __future__ import annotations

import random
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from confluent_kafka import Consumer as ConfluentConsumer
from confluent_kafka import Producer as ConfluentProducer
from confluent_kafka.admin import AdminClient
from kafka import KafkaConsumer, KafkaProducer

from benchmarks.measure import table_of
from music_pulse.settings import load_settings
from streaming.client import (
    BulkConsumer,
    BulkProducer,
    BytesSerializer,
    Consumer,
    KafkaConfig,
    Producer,
    Topic,
    ensure_topics,
)

JARS = Path(__file__).resolve().parent.parent / ".cache" / "jars"
"""Where the tests download to as well."""

ROUNDS = 5
VALUE_BYTES = 300
_PARTITIONS = 3
_BATCH = 1_000
_SLOW_SHARE = 20
"""kafka-python is measured on a twentieth of the events."""

_TUNED = "confluent-kafka, tuned"

Run = Callable[[str, str, int], "Timing"]
"""(bootstrap, topic, events) -> what it took."""


class Timing:
    """Seconds and CPU-seconds between `start` and `stop`, and the events in between."""

    def start(self) -> None:
        """Begin."""
        self._wall, self._cpu = time.perf_counter(), _cpu()

    def stop(self, events: int) -> Timing:
        """End; return itself."""
        self.per_second = events / (time.perf_counter() - self._wall)
        self.per_cpu_second = events / (_cpu() - self._cpu)
        return self


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measure(bootstrap: str, events: int) -> list[dict[str, Any]]:
    """Return a row for each direction and variant: `direction`, `variant`, `per_second`, `per_cpu_second`.

    `per_second_of_tuned` and `per_cpu_second_of_tuned` compare with the bare confluent-kafka of the same round.
    """
    rows = []
    for direction, variants in (("produce", PRODUCERS), ("consume", CONSUMERS)):
        timings: dict[str, list[Timing]] = {name: [] for name in variants}
        with _topic(bootstrap) as filled:
            if direction == "consume":
                _produce_ours(bootstrap, filled, events)
            for _ in range(ROUNDS):
                for name, run in variants.items():
                    count = events // _SLOW_SHARE if "kafka-python" in name else events
                    if direction == "consume":
                        timings[name].append(run(bootstrap, filled, count))
                    else:
                        with _topic(bootstrap) as empty:
                            timings[name].append(run(bootstrap, empty, count))
        for name, found in timings.items():
            row: dict[str, Any] = {"direction": direction, "variant": name}
            for what in ("per_second", "per_cpu_second"):
                ours, bare = (np.array([getattr(one, what) for one in some]) for some in (found, timings[_TUNED]))
                row |= {what: float(np.median(ours)), f"{what}_of_tuned": float(np.median(ours / bare))}
            rows.append(row)
    return rows


def verdict(rows: list[dict[str, Any]]) -> str:
    """Compare ours with the bare client, tuned and not, against what is wanted of it."""
    found = {(row["direction"], row["variant"]): row for row in rows}
    parts = []
    for direction in ("produce", "consume"):
        row = found[direction, "ours, bulk"]
        share = f"{row['per_second_of_tuned']:.2f} of the bare client tuned alike"
        parts.append(
            f"{direction}: {row['per_second']:,.0f} a second, {share} ({row['per_cpu_second_of_tuned']:.2f} per CPU s)"
        )
    by_default = found["consume", "confluent-kafka, default"]["per_second"]
    faster = found["consume", "ours, bulk"]["per_second"] / by_default
    return f"Ours, {'; '.join(parts)}. Targets: 100,000; 0.90. {faster:.1f} × consuming by default (target: 2)."


def _events(count: int) -> tuple[list[bytes], list[bytes]]:
    rng = random.Random(1)
    few = []
    for number in range(1_000):
        text = f'{{"version":1,"listen_id":"{rng.getrandbits(128):032x}","track_name":"Track {number}","padding":"'
        few.append((text + "la " * VALUE_BYTES)[: VALUE_BYTES - 2].encode() + b'"}')
    return [b"user-%d" % (n % 100) for n in range(count)], [few[n % 1_000] for n in range(count)]


@contextmanager
def _topic(bootstrap: str) -> Iterator[str]:
    """Make a topic, and delete it in the end."""
    name = f"bench-{uuid4().hex[:8]}"
    ensure_topics(KafkaConfig(bootstrap), [Topic(name, _PARTITIONS)])
    try:
        yield name
    finally:
        admin = AdminClient({"bootstrap.servers": bootstrap})
        admin.delete_topics([name])[name].result(30)


# Producing. The clock starts when a first event has been delivered: all are connected.


def _python_producer(bootstrap: str, topic: str, events: int, **options: Any) -> Timing:
    keys, values = _events(events)
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", **options)
    producer.send(topic, b"first")
    producer.flush()
    timing = Timing()
    timing.start()
    for key, value in zip(keys, values, strict=True):
        producer.send(topic, value, key)
    producer.flush()
    timing.stop(events)
    producer.close()
    return timing


def _confluent_options(bootstrap: str) -> dict[str, Any]:
    return {
        "bootstrap.servers": bootstrap,
        "acks": "all",
        "enable.idempotence": True,
        "compression.type": "lz4",
        "linger.ms": 10,
        "batch.size": 1_000_000,
        "partitioner": "murmur2_random",
    }


def _produce_confluent_default(bootstrap: str, topic: str, events: int) -> Timing:
    keys, values = _events(events)
    failed = []
    producer = ConfluentProducer({"bootstrap.servers": bootstrap})
    producer.produce(topic, b"first")
    producer.flush()
    timing = Timing()
    timing.start()
    for key, value in zip(keys, values, strict=True):
        while True:
            try:
                producer.produce(topic, value, key, on_delivery=lambda error, _: error and failed.append(error))
                break
            except BufferError:
                producer.poll(0.005)
        producer.poll(0)
    producer.flush()
    timing.stop(events)
    assert not failed
    return timing


def _produce_confluent_tuned(bootstrap: str, topic: str, events: int) -> Timing:
    keys, values = _events(events)
    producer = ConfluentProducer(_confluent_options(bootstrap))
    producer.produce(topic, b"first")
    producer.flush()
    timing = Timing()
    timing.start()
    produce = producer.produce
    for key, value in zip(keys, values, strict=True):
        while True:
            try:
                produce(topic, value, key)
                break
            except BufferError:
                producer.poll(0.005)
    producer.flush()
    return timing.stop(events)


def _produce_ours(bootstrap: str, topic: str, events: int) -> Timing:
    keys, values = _events(events)
    timing = Timing()
    with BulkProducer(KafkaConfig(bootstrap), topic, BytesSerializer()) as producer:
        producer.send(b"first", b"first")
        producer.flush()
        timing.start()
        producer.send_many(keys, values)
        producer.flush()
        return timing.stop(events)


def _produce_ours_python(bootstrap: str, topic: str, events: int) -> Timing:
    keys, values = _events(events)
    timing = Timing()
    with Producer(KafkaConfig(bootstrap), topic, BytesSerializer()) as producer:
        producer.send(b"first", b"first")
        producer.flush()
        timing.start()
        producer.send_many(keys, values)
        producer.flush()
        return timing.stop(events)


PRODUCERS: dict[str, Run] = {
    "kafka-python, default": _python_producer,
    "kafka-python, tuned": lambda *args: _python_producer(
        *args, compression_type="lz4", linger_ms=5, batch_size=131_072
    ),
    "ours, kafka-python": _produce_ours_python,
    "confluent-kafka, default": _produce_confluent_default,
    _TUNED: _produce_confluent_tuned,
    "ours, bulk": _produce_ours,
}


# Consuming. The clock starts with the first events: joining a group takes longer than reading what is measured.


def _python_consumer(bootstrap: str, topic: str, events: int, **options: Any) -> Timing:
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=uuid4().hex,
        auto_offset_reset="earliest",
        **options,
    )
    timing, read = Timing(), 0
    while not read:
        read = sum(map(len, consumer.poll(1_000).values()))
    timing.start()
    first = read
    while read < events:
        for records in consumer.poll(1_000).values():
            for record in records:
                _ = record.value
            read += len(records)
    timing.stop(read - first)
    consumer.close()
    return timing


def _confluent_consumer(bootstrap: str, topic: str, options: dict[str, Any]) -> ConfluentConsumer:
    consumer = ConfluentConsumer(
        {"bootstrap.servers": bootstrap, "group.id": uuid4().hex, "auto.offset.reset": "earliest", **options}
    )
    consumer.subscribe([topic])
    return consumer


def _consume_confluent_default(bootstrap: str, topic: str, events: int) -> Timing:
    consumer = _confluent_consumer(bootstrap, topic, {})
    timing, read = Timing(), 0
    while read < events:
        message = consumer.poll(1)
        if message is None or message.error() is not None:
            continue
        message.value()
        read += 1
        if read == 1:
            timing.start()
    timing.stop(read - 1)
    consumer.close()
    return timing


def _consume_confluent_tuned(bootstrap: str, topic: str, events: int) -> Timing:
    options = {"fetch.queue.backoff.ms": 5, "max.partition.fetch.bytes": 4_000_000, "enable.auto.commit": False}
    consumer = _confluent_consumer(bootstrap, topic, options)
    timing, read = Timing(), 0
    while not read:
        read = len(consumer.consume(_BATCH, 1))
    timing.start()
    first = read
    while read < events:
        messages = consumer.consume(min(_BATCH, events - read), 1)
        for message in messages:
            if message.error() is None:
                message.value()
        read += len(messages)
    timing.stop(read - first)
    consumer.close()
    return timing


def _consume_ours(bootstrap: str, topic: str, events: int, kind: Any = BulkConsumer) -> Timing:
    timing, read, first = Timing(), 0, 0
    stop = threading.Event()
    with kind(KafkaConfig(bootstrap), [topic], uuid4().hex, max_records=_BATCH, max_wait=0.1) as consumer:
        for batch in consumer.batches(stop):
            read += len(batch.values())
            if not first:
                first = read
                timing.start()
            if read >= events:
                stop.set()
        return timing.stop(read - first)


CONSUMERS: dict[str, Run] = {
    "kafka-python, default": _python_consumer,
    "kafka-python, tuned": lambda *args: _python_consumer(*args, check_crcs=False, max_poll_records=_BATCH),
    "ours, kafka-python": lambda *args: _consume_ours(*args, kind=Consumer),
    "confluent-kafka, default": _consume_confluent_default,
    _TUNED: _consume_confluent_tuned,
    "ours, bulk": _consume_ours,
}


def bench_kafka(folder: Path, rows: int) -> str:
    """Producing and consuming, our client beside the bare ones, on an embedded broker."""
    from music_pulse import streams

    with streams.broker(load_settings(home=folder, jar_cache=JARS)) as config:
        found = measure(config.bootstrap, rows // 5)
    lines = [
        [
            row["direction"],
            row["variant"],
            f"{row['per_second']:,.0f}",
            f"{row['per_cpu_second']:,.0f}",
            f"{row['per_second_of_tuned']:.2f}",
        ]
        for row in found
    ]
    columns = ["direction", "client", "events / s", "events / CPU s", "of bare, tuned"]
    return table_of(f"Kafka clients, {rows // 5:,} events of 300 bytes", columns, lines, verdict(found))


def main() -> None:
    """Measure against a broker that runs, and print."""
    rows = measure(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 500_000)
    for row in rows:
        print("{direction}  {variant:26} {per_second:11,.0f}/s {per_cpu_second:11,.0f}/CPU s".format(**row))
    print(verdict(rows))


if __name__ == "__main__":
    main()
