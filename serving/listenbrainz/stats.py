"""GET /1/stats/…: top artists, recordings and releases of a user or of all, summed from the marts when asked.

Unlike ListenBrainz', they know each listen that is built; a user's listens to one entity aren't capped, and a range
ends with its newest day, not before it. Ranges are of the listeners' days, and anchored on the newest day there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from serving import api_sql
from serving.errors import ApiError
from serving.listenbrainz import shapes
from serving.listenbrainz.answers import answer
from serving.listenbrainz.arguments import DEFAULT_ITEMS, MOST_ITEMS, non_negative
from serving.listenbrainz.askers import limited
from serving.listenbrainz.reads import Name, Text, mbids
from serving.listenbrainz.users import find_user
from serving.marts_reader import MartsReader, VersionedMarts

router = APIRouter(prefix="/1/stats", dependencies=[Depends(limited)], tags=["ListenBrainz"])

RANGES = (
    "this_week", "this_month", "this_year", "week", "month", "quarter", "year", "half_yearly", "all_time",
)  # fmt: skip

_ARTISTS = f"""
    select top.name as artist_name, top.listens, artists.artist_mbids
    from ({api_sql.TOP_ARTISTS}) as top
    inner join marts.artists as artists on artists.artist_id = top.id
    order by top.rank
"""
_RECORDINGS = f"""
    select
        top.name as track_name, top.artist_name, top.listens, artists.artist_mbids,
        tracks.recording_mbid::text as recording_mbid, tracks.album as release_name
    from ({api_sql.TOP_TRACKS}) as top
    inner join marts.tracks as tracks on tracks.track_id = top.id
    inner join marts.artists as artists on artists.artist_id = tracks.canonical_artist_id
    order by top.rank
"""
_RELEASES = f"""
    select top.name as release_name, top.artist_name, top.listens
    from ({api_sql.TOP_ALBUMS}) as top
    order by top.rank
"""
_TOTAL = """
    select count(*) as total
    from (
        select 1
        from marts.{table}
        where
            {condition}day between %(first)s and %(last)s
            and (%(user)s::text is null or user_id = %(user)s::text)
        group by {entity}
    ) as heard
"""
_HELD = """
    select
        max(all_days.day) as newest,
        min(all_days.day) filter (where %(user)s::text is null or all_days.user_id = %(user)s::text) as oldest,
        (select extract(epoch from changed_at)::bigint from marts.freshness) as changed_at
    from (select day, user_id from marts.user_daily_hours) as all_days
"""


class Entity(StrEnum):
    """What is ranked."""

    ARTISTS = "artists"
    RECORDINGS = "recordings"
    RELEASES = "releases"


@dataclass(frozen=True)
class _Held:
    newest: date | None
    oldest: date | None
    changed_at: int | None


@dataclass(frozen=True)
class _Total:
    total: int


@dataclass(frozen=True)
class _Artist:
    artist_name: str
    listens: int
    artist_mbids: str | None

    def shape(self) -> dict[str, Any]:
        known = mbids(self.artist_mbids)
        return {
            "artist_mbid": known[0] if known else None,
            "artist_name": self.artist_name,
            "listen_count": self.listens,
        }


@dataclass(frozen=True)
class _Recording:
    track_name: str
    artist_name: str
    listens: int
    artist_mbids: str | None
    recording_mbid: str | None
    release_name: str | None

    def shape(self) -> dict[str, Any]:
        return {
            "artist_mbids": mbids(self.artist_mbids) or [],
            "artist_name": self.artist_name,
            "listen_count": self.listens,
            "recording_mbid": self.recording_mbid or "",
            "release_mbid": "",
            "release_name": self.release_name or "",
            "track_name": self.track_name,
        }


@dataclass(frozen=True)
class _Release:
    release_name: str
    artist_name: str
    listens: int

    def shape(self) -> dict[str, Any]:
        return {
            "artist_mbids": [],
            "artist_name": self.artist_name,
            "listen_count": self.listens,
            "release_mbid": "",
            "release_name": self.release_name,
        }


@dataclass(frozen=True)
class _Kind:
    model: type[_Artist] | type[_Recording] | type[_Release]
    statement: str
    total: str
    total_name: str


_KINDS = {
    Entity.ARTISTS: _Kind(
        _Artist,
        _ARTISTS,
        _TOTAL.format(table="user_daily_tracks", entity="artist_id", condition=""),
        "total_artist_count",
    ),
    Entity.RECORDINGS: _Kind(
        _Recording,
        _RECORDINGS,
        _TOTAL.format(table="user_daily_tracks", entity="track_id", condition=""),
        "total_recording_count",
    ),
    Entity.RELEASES: _Kind(
        _Release,
        _RELEASES,
        _TOTAL.format(
            table="listen_events inner join marts.artists using (artist_id)",
            entity="canonical_artist_id, album",
            condition="album is not null and ",
        ),
        "total_release_count",
    ),
}

Which = Annotated[Entity, Path(description="What is ranked.")]
Range = Annotated[str, Query(alias="range", description=f"One of {', '.join(RANGES)}.")]
_ANSWERS = {**shapes.answers(shapes.Statistics, 404), 204: {"description": "There are no listens in the range."}}


@router.get("/sitewide/{entity}", responses=_ANSWERS)
async def sitewide(
    request: Request,
    marts: VersionedMarts,
    response: Response,
    entity: Which,
    range_: Range = "all_time",
    count: Text = None,
    offset: Text = None,
) -> Response:
    """What all users together heard most."""
    return await _answer(request, marts, response, entity, None, range_, count, offset)


@router.get("/user/{user_name:path}/{entity}", responses=_ANSWERS)
async def of_user(
    request: Request,
    marts: VersionedMarts,
    response: Response,
    user_name: Name,
    entity: Which,
    range_: Range = "all_time",
    count: Text = None,
    offset: Text = None,
) -> Response:
    """What a user heard most."""
    return await _answer(request, marts, response, entity, user_name, range_, count, offset)


async def _answer(
    request: Request,
    marts: MartsReader,
    response: Response,
    entity: Entity,
    user_name: str | None,
    range_: str,
    count: str | None,
    offset: str | None,
) -> Response:
    if range_ not in RANGES:
        raise ApiError(f"Invalid range: {range_}")
    limit = min(non_negative("count", count, DEFAULT_ITEMS), MOST_ITEMS)
    skipped = non_negative("offset", offset, 0)
    user = None if user_name is None else await find_user(request, marts, user_name)
    user_id = None if user is None else user.user_id
    held = await marts.row(_Held, _HELD, user=user_id)
    if held.newest is None or held.oldest is None:
        return Response(status_code=204)
    first, last = days_of(range_, held.oldest, held.newest)
    kind = _KINDS[entity]
    asked = {"user": user_id, "first": first, "last": last}
    total = (await marts.row(_Total, kind.total, **asked)).total
    if not total:
        return Response(status_code=204)
    rows = await marts.rows(
        kind.model,
        kind.statement,
        limit=min(limit, max(0, MOST_ITEMS - skipped)),
        offset=min(skipped, MOST_ITEMS),
        **asked,
    )
    payload = {
        entity.value: [row.shape() for row in rows],
        kind.total_name: total,
        "range": range_,
        "offset": skipped,
        "count": limit if user is None else len(rows),
        "from_ts": _seconds(first),
        "to_ts": _seconds(last + timedelta(days=1)),
        "last_updated": held.changed_at or 0,
        **({} if user is None else {"user_id": user_name}),
    }
    return answer({"payload": payload}, like=response)


def days_of(range_: str, oldest: date, newest: date) -> tuple[date, date]:
    """Return the first and last day of a range, seen from the newest day.

    A plain one is the last that is over; `this_…` goes on. On its first day it is the one before, as at ListenBrainz.
    """
    if range_ == "all_time":
        return min(oldest, newest), newest
    unit = range_.removeprefix("this_")
    start = _start(unit, newest)
    before = _start(unit, start - timedelta(days=1))
    if range_ != unit and start != newest:
        return start, newest
    return before, start - timedelta(days=1)


def _start(unit: str, day: date) -> date:
    """Return the first day of the week, month, … that a day is in."""
    if unit == "week":
        return day - timedelta(days=day.weekday())
    months = {"month": 1, "quarter": 3, "half_yearly": 6, "year": 12}[unit]
    return date(day.year, (day.month - 1) // months * months + 1, 1)


def _seconds(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
