"""raw.stream_listens, raw.stream_loads and raw.stream_offsets: the statements that write them, in one transaction."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import psycopg

from streaming.listen_rows import UUIDS, StreamRow

_TYPES = {
    **dict.fromkeys(UUIDS, "uuid"),
    **dict.fromkeys(("listened_at", "duration_ms", "inserted_at", "kafka_offset", "kafka_timestamp"), "bigint"),
    "kafka_partition": "integer",
}
_CONVERSIONS = {
    "listened_at": "to_timestamp(listened_at)",
    "inserted_at": "to_timestamp(inserted_at)",
    "kafka_timestamp": "to_timestamp(kafka_timestamp / 1000.0)",
}
_COLUMNS = StreamRow._fields
_REPLACED = [name for name in _COLUMNS if name != "listen_id" and not name.startswith("kafka_")]
_PREFERENCE = """(
    coalesce(-{row}.duration_ms, 0), {row}.album is null,
    coalesce({row}.recording_msid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'), {row}.payload_hash
)"""

_STAGE = f"""
create temporary table if not exists stream_stage (
    {", ".join(f"{name} {_TYPES.get(name, 'text')}" for name in _COLUMNS)}
) on commit delete rows
""".encode()
_COPY = f"copy stream_stage ({', '.join(_COLUMNS)}) from stdin".encode()
# In the order of the key, so that two sinks that meet wait for each other and don't deadlock.
_MERGE = f"""
insert into raw.stream_listens as held ({", ".join(_COLUMNS)}, load_id)
select {", ".join(_CONVERSIONS.get(name, name) for name in _COLUMNS)}, %s
from stream_stage
order by listen_id
on conflict (listen_id) do update
set {", ".join(f"{name} = excluded.{name}" for name in [*_REPLACED, "load_id"])}
where {_PREFERENCE.format(row="excluded")} < {_PREFERENCE.format(row="held")}
""".encode()


class Source(NamedTuple):
    """The topic that offsets are those of: see `topic_incarnation`."""

    incarnation: str
    topic: str


def next_offsets(connection: psycopg.Connection, source: Source) -> dict[int, int]:
    """Return where reading goes on, by partition; a partition that nothing was landed from is left out."""
    rows = connection.execute(
        "select partition, next_offset from raw.stream_offsets where cluster_id = %s and topic = %s", source
    )
    return dict(rows.fetchall())


def lock_offsets(connection: psycopg.Connection, source: Source, partitions: Iterable[int]) -> dict[int, int]:
    """Return the same of `partitions`, 0 for a new one; whoever else lands them waits until we have committed."""
    numbers = sorted(set(partitions))
    connection.execute(
        "insert into raw.stream_offsets select %s, %s, number, 0, now() from unnest(%s::integer[]) as number"
        " on conflict do nothing",
        [*source, numbers],
    )
    rows = connection.execute(
        "select partition, next_offset from raw.stream_offsets"
        " where cluster_id = %s and topic = %s and partition = any(%s) order by partition for update",
        [*source, numbers],
    )
    return dict(rows.fetchall())


def move_offsets(connection: psycopg.Connection, source: Source, offsets: Mapping[int, int]) -> None:
    """Set where reading goes on in partitions that are locked."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "update raw.stream_offsets set next_offset = %s, updated_at = clock_timestamp()"
            " where cluster_id = %s and topic = %s and partition = %s",
            [(offset, *source, number) for number, offset in offsets.items()],
        )


def write_load(connection: psycopg.Connection, rows: Iterable[StreamRow], *, events: int, refused: int) -> int:
    """Write rows (each listen once) as one load of so many events; return how many rows are new or say more now."""
    load_id = new_load_id()
    with connection.cursor() as cursor:
        cursor.execute(_STAGE)
        with cursor.copy(_COPY) as copy:
            for row in rows:
                copy.write_row(row)
        cursor.execute(_MERGE, [load_id])
        listens = cursor.rowcount
        cursor.execute(
            "insert into raw.stream_loads (load_id, events, listens, refused, committed_at)"
            " values (%s, %s, %s, %s, clock_timestamp())",
            [load_id, events, listens, refused],
        )
    return listens


def new_load_id() -> str:
    """Make up the id of a load: its time, by which they sort, and something by which two never are the same."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}"
