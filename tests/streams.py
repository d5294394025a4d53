"""What the tests of the stream share: names of their own, and what fixtures hand out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from streaming.client import EventConsumer, EventProducer, Record

MakeTopic = Callable[..., str]
"""Makes a topic of 3 partitions and returns its name; takes `partitions` and settings, with `_` for `.`."""

ReadAll = Callable[..., list[Record]]
"""Reads all committed events of a topic, and checks that there are so many."""

ProducerClass = type[EventProducer[Any]]
ConsumerClass = type[EventConsumer]

_numbers = itertools.count(1)
_run = uuid4().hex[:8]


def unique(name: str) -> str:
    """Return a name that no other test uses."""
    return f"{name}-{_run}-{next(_numbers)}"


def by_key(records: Sequence[Record]) -> dict[bytes | None, list[bytes | None]]:
    """Return the values of each key, in the order they were read."""
    found: dict[bytes | None, list[bytes | None]] = {}
    for record in records:
        found.setdefault(record.key, []).append(record.value)
    return found
