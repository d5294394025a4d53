"""Records of a file, some at a time, as they came."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Records(NamedTuple):
    """Some records: the number (from 1) of the first, what is read of each, and the bytes of each."""

    first: int
    values: Sequence[Any]
    payloads: Sequence[Any]
    """Bytes, or what has a buffer of them."""
