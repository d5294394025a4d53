"""The shapes of the answers, for the OpenAPI: ListenBrainz' own."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class _Open(BaseModel):
    """More fields may come."""

    model_config = ConfigDict(extra="allow")


class Error(_Open):
    """What every error says; a listen that is at fault is spread over it."""

    code: int
    error: str


class TrackMetadata(_Open):
    """What was listened to."""

    artist_name: str
    track_name: str
    additional_info: dict[str, Any]


class Listen(_Open):
    """A listen; times in seconds since 1970."""

    listened_at: int
    inserted_at: int
    recording_msid: str
    user_name: str
    track_metadata: TrackMetadata


class ListensPage(_Open):
    """The ends are the user's, not the page's."""

    count: int
    user_id: str
    latest_listen_ts: int
    oldest_listen_ts: int
    listens: list[Listen]


class Listens(_Open):
    """A page of listens."""

    payload: ListensPage


class Count(_Open):
    """How many."""

    count: int


class ListenCount(_Open):
    """A user's listens."""

    payload: Count


class Playing(_Open):
    """What is heard now: no time, no id."""

    track_metadata: TrackMetadata
    user_name: str
    playing_now: bool


class PlayingPage(_Open):
    """None or one."""

    count: int
    user_id: str
    playing_now: bool
    listens: list[Playing]


class PlayingNow(_Open):
    """What a user hears now."""

    payload: PlayingPage


class Statistics(_Open):
    """Top lists: the entity's name in the plural is the key of the list."""

    payload: dict[str, Any]


class Accepted(_Open):
    """The listens are safe."""

    status: str


class TokenVerdict(_Open):
    """Whether a token is one, and whose."""

    code: int
    message: str
    valid: bool


def answers(model: type[BaseModel] | None, *errors: int) -> dict[int | str, dict[str, Any]]:
    """Return what a route may answer: its model, these errors, and those that each route may have."""
    found: dict[int | str, dict[str, Any]] = {
        status: {"model": Error, "description": "See `error`."} for status in sorted({*errors, 400, 429, 503})
    }
    if model is not None:
        found[200] = {"model": model, "description": "As ListenBrainz answers."}
    return found
