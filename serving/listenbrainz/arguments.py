"""Arguments of ListenBrainz' addresses, read as it reads them, with its words for what can't be one."""

from __future__ import annotations

from serving.errors import ApiError

DEFAULT_ITEMS = 25
MOST_ITEMS = 1000
"""A larger `count` is silently made this one."""

_WIDEST = 2**62


def timestamp(name: str, value: str | None) -> int | None:
    """Read seconds since 1970."""
    if value is None:
        return None
    number = _integer(value)
    if number is None:
        raise ApiError(f"Incorrect {name} timestamp argument: {value}")
    return number


def items(value: str | None) -> int:
    """Read how many listens to return."""
    if not value:
        return DEFAULT_ITEMS
    number = _integer(value)
    if number is None:
        raise ApiError(f"Invalid count argument: {value}")
    if number < 0:
        raise ApiError("Number of items requested should be positive")
    return min(number, MOST_ITEMS)


def non_negative(name: str, value: str | None, default: int) -> int:
    """Read `count` and `offset` of statistics."""
    number = default if value is None else _integer(value)
    if number is None or number < 0:
        raise ApiError(f"'{name}' should be a non-negative integer")
    return number


def _integer(value: str) -> int | None:
    try:
        number = int(value)
    except ValueError:
        return None
    return max(-_WIDEST, min(number, _WIDEST))
