"""What the read API answers with. Days are those of the user; minutes count known durations only."""

from __future__ import annotations

from datetime import date, datetime
from typing import Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """A part of a list; `next_offset` is null at its end."""

    items: list[Item]
    next_offset: int | None


class Status(BaseModel):
    """How fresh the answers are, times in UTC."""

    version: str | None
    """Another one after each build that changed the marts; null before the first."""
    changed_at: datetime | None
    """When the newest build that changed the marts began."""
    pending_loads: int
    """Loads that are landed and not built yet."""
    stream_committed_at: datetime | None
    """When the trending job last committed a batch."""


class User(BaseModel):
    """A user of the marts."""

    user_id: str
    listens: int
    minutes_listened: float
    first_day: date
    last_day: date


class Period(BaseModel):
    """The days that an answer is about, both included."""

    first_day: date
    last_day: date


class Overview(Period):
    """A period in figures."""

    listens: int
    minutes_listened: float
    listens_without_duration: int
    tracks: int
    artists: int
    new_artists: int
    sessions: int
    days_with_listens: int


class Top(BaseModel):
    """A track, an artist or an album, by its listens."""

    rank: int
    id: UUID | None
    """Of a track or an artist."""
    name: str
    artist_name: str | None
    listens: int
    minutes_listened: float


class Bar(BaseModel):
    """What was heard in a bucket of time; `day` is its first."""

    day: date
    listens: int
    minutes_listened: float


class OverTime(Period):
    """Listens over time; buckets without any are there, too."""

    bucket: Literal["day", "week", "month"]
    bars: list[Bar]


class Hour(BaseModel):
    """Listens of one hour of one day of the week; 1 is Monday. Hours without any are left out."""

    weekday: int
    hour: int
    listens: int
    minutes_listened: float


class Discovery(BaseModel):
    """An artist heard for the first time."""

    artist_id: UUID
    name: str
    first_day: date
    listens: int
    """Since then, by everybody."""


class Streak(Period):
    """Days in a row with listens."""

    days: int


class Session(BaseModel):
    """Listens one after the other, without a long pause; times in UTC."""

    user_id: str
    started_at: datetime
    ended_at: datetime
    """Start of its last listen."""
    day: date
    listens: int
    minutes_listened: float


class PlayingNow(BaseModel):
    """What a user hears at this moment; times in UTC."""

    user_id: str
    track_name: str
    artist_name: str
    started_at: datetime


class Trending(BaseModel):
    """A line of the trending table."""

    rank: int
    previous_rank: int | None
    id: UUID
    name: str
    artist_name: str
    listens: int
    listeners: int
    score: float
    history: list[int]
    """Its listeners in windows that do not overlap, the oldest first, this one last."""


class TrendingTable(BaseModel):
    """The newest window that has ended; without times where there was none."""

    window_start: datetime | None
    window_end: datetime | None
    items: list[Trending]
    next_offset: int | None
