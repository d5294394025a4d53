"""What is sent and what comes back, the same for both clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from streaming.client.errors import StreamError

Headers = Sequence[tuple[str, bytes | None]]
"""Headers in their order; a name may come twice."""


class Partition(NamedTuple):
    """A partition of a topic."""

    topic: str
    number: int


class Record(NamedTuple):
    """An event as it was read; its time in milliseconds since 1970 (-1: none)."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class Batch(Protocol):
    """Records that were read together; those of one partition are in order."""

    def __len__(self) -> int: ...

    def records(self) -> list[Record]:
        """Return all of each record."""

    def values(self) -> list[bytes | None]:
        """Return the values alone, which is cheaper."""

    def next_offsets(self) -> Mapping[Partition, int]:
        """Return where reading goes on after this batch, by partition: what a sink keeps with its rows."""


class Delivery(NamedTuple):
    """What became of an event: where it stands, or why it doesn't (then `offset` is -1)."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    error: StreamError | None
