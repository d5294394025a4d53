"""What must stand in raw.stream_listens: worked out from the records in Kafka, in plain Python, another way."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition
from helpers import query

from music_pulse.settings import Settings
from streaming.client import KafkaConfig, Record

COLUMNS = (
    "listen_id", "artist_id", "track_id", "user_name", "user_key", "listened_at", "artist_name", "track_name", "album",
    "artist_key", "track_key", "duration_ms", "recording_msid", "recording_mbid", "release_mbid", "artist_mbids",
    "submission_client", "additional_info", "mbid_mapping", "inserted_at", "source", "origin", "payload_hash",
    "kafka_topic", "kafka_partition", "kafka_offset", "kafka_timestamp",
)  # fmt: skip

Row = tuple[Any, ...]


def expected_rows(records: Iterable[Record], bad: Collection[bytes | None] = ()) -> set[Row]:
    """Return the rows that `records` come to; those whose values are `bad` are no listens.

    Keys of names are worked out for plain ASCII only, and additional_info for what `helpers.listen` gives.
    """
    by_listen: dict[str, list[tuple[Record, dict[str, Any]]]] = defaultdict(list)
    for record in records:
        if record.value not in bad:
            event = json.loads(record.value or b"")
            by_listen[event["listen_id"]].append((record, event))
    return {_row(together) for together in by_listen.values()}


def _row(together: list[tuple[Record, dict[str, Any]]]) -> Row:
    first = min((record for record, _ in together), key=lambda record: (record.timestamp_ms, record.offset))
    event, hashed = min(((event, _hash(record)) for record, event in together), key=lambda pair: _says_less(*pair))
    metadata = event["track_metadata"]
    info = metadata.get("additional_info", {})
    return (
        event["listen_id"], event["artist_id"], event["track_id"], event["user_name"],
        event["user_name"].strip().lower(), datetime.fromtimestamp(event["listened_at"], UTC),
        metadata["artist_name"], metadata["track_name"], metadata.get("release_name"),
        metadata["artist_name"].strip().lower(), metadata["track_name"].strip().lower(),
        info.get("duration_ms"), event.get("recording_msid"), None, None, None, None, None, None,
        datetime.fromtimestamp(event["inserted_at"], UTC) if "inserted_at" in event else None,
        "stream", None, hashed,
        first.topic, first.partition, first.offset, datetime.fromtimestamp(first.timestamp_ms / 1000, UTC),
    )  # fmt: skip


def _says_less(event: dict[str, Any], hashed: str) -> tuple[Any, ...]:
    metadata = event["track_metadata"]
    duration = metadata.get("additional_info", {}).get("duration_ms")
    msid = event.get("recording_msid")
    return (
        duration is None, -(duration or 0), "release_name" not in metadata, msid is None, msid or "", hashed,
    )  # fmt: skip


def _hash(record: Record) -> str:
    digest = hashlib.md5(record.value or b"").hexdigest()
    return "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:]))


def landed_rows(settings: Settings) -> set[Row]:
    """Return what stands in the table, UUIDs as text; no row twice."""
    uuids = ("_id", "_msid", "_mbid", "_hash")
    chosen = ", ".join(f"{name}::text" if name.endswith(uuids) else name for name in COLUMNS)
    rows = query(settings, f"select {chosen} from raw.stream_listens")
    assert len(set(rows)) == len(rows)
    return set(rows)


def assert_loads_add_up(settings: Settings, *, events: int, refused: int) -> None:
    """Check raw.stream_loads: each event in one load, each row of a load that is there, ids sorted by time."""
    loads = query(settings, "select load_id, events, listens, refused from raw.stream_loads order by committed_at")
    assert [load_id for load_id, *_ in loads] == sorted(load_id for load_id, *_ in loads)
    assert sum(load[1] for load in loads) == events
    assert sum(load[3] for load in loads) == refused
    orphans = "select count(*) from raw.stream_listens where load_id not in (select load_id from raw.stream_loads)"
    assert query(settings, orphans) == [(0,)]


def read_topic(config: KafkaConfig, topic: str) -> list[Record]:
    """Read all of a topic, without a group and without our consumers."""
    options = {**config.confluent(), "group.id": "bare", "enable.auto.commit": False, "enable.partition.eof": True}
    consumer = Consumer(options)
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        found: list[Record] = []
        ends = 0
        while ends < len(partitions):
            message = consumer.poll(30)
            assert message is not None
            if message.error() is not None:
                assert message.error().code() == KafkaError._PARTITION_EOF
                ends += 1
                continue
            place = (topic, message.partition(), message.offset(), message.timestamp()[1])
            found.append(Record(*place, message.key(), message.value(), message.headers() or []))
        return found
    finally:
        consumer.close()
