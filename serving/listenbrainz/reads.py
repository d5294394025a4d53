"""GET /1/user/…: a user's listens, page by page, and how many there are; from the marts, so as of their last build.

What ListenBrainz' clients work around isn't copied: `min_ts` alone finds the oldest listens wherever they begin, and
no listen is skipped at the edge of a search window. Listens of one second come in the order of their ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from music_pulse.listens import from_json
from serving.database import AppState, Marts
from serving.errors import ApiError
from serving.listenbrainz import shapes
from serving.listenbrainz.answers import answer
from serving.listenbrainz.arguments import items, timestamp
from serving.listenbrainz.askers import limited
from serving.listenbrainz.users import User, find_user
from serving.marts_reader import VersionedMarts, reader, select
from serving.playing_now import playing_now

router = APIRouter(prefix="/1", dependencies=[Depends(limited)], tags=["ListenBrainz"])

Name = Annotated[str, Path(description="A user's name, in any case.")]
Text = Annotated[str | None, Query()]

_ONE_DAY = timedelta(days=1)
_FIRST, _LAST = date.min, date.max

_COUNT = "select coalesce(sum(listens), 0)::bigint as count from marts.user_daily_hours where user_id = %(user)s"

_ENDS = """
    select
        (
            select extract(epoch from max(listens.played_at_ts))::bigint
            from marts.listen_events as listens
            where listens.user_id = %(user)s and listens.day = ends.last_day
        ) as latest,
        (
            select extract(epoch from min(listens.played_at_ts))::bigint
            from marts.listen_events as listens
            where listens.user_id = %(user)s and listens.day = ends.first_day
        ) as oldest
    from (
        select min(day) as first_day, max(day) as last_day from marts.user_daily_hours where user_id = %(user)s
    ) as ends
"""

# The days of a page, since there is an index of days and none of users. What the bounds may cut through doesn't count.
_DAYS = """
    select array_agg(days.day) as days, coalesce(max(days.before + days.listens), 0)::bigint as promised
    from (
        select
            counted.day,
            counted.listens,
            coalesce(sum(counted.listens) over (
                order by counted.day {direction} rows between unbounded preceding and 1 preceding
            ), 0) as before
        from (
            select
                day,
                coalesce(sum(listens) filter (where day between %(sure_first)s and %(sure_last)s), 0) as listens
            from marts.user_daily_hours
            where user_id = %(user)s and day between %(first)s and %(last)s
            group by day
        ) as counted
    ) as days
    where days.before < %(count)s
"""
_DAYS_BACK = _DAYS.format(direction="desc")
_DAYS_FORTH = _DAYS.format(direction="asc")

_PAGE = """
    select
        extract(epoch from played_at_ts)::bigint as listened_at,
        coalesce(extract(epoch from inserted_at)::bigint, 0) as inserted_at,
        coalesce(recording_msid, track_id)::text as recording_msid,
        user_id, artist, track, album, duration_ms,
        recording_mbid::text as recording_mbid,
        release_mbid::text as release_mbid,
        artist_mbids,
        submission_client
    from marts.listen_events
    where
        user_id = %(user)s and {days}
        and played_at_ts > to_timestamp(%(after)s) and played_at_ts < to_timestamp(%(before)s)
    order by played_at_ts {direction}, listen_id {direction}
    limit %(count)s
"""
_OF_DAYS, _OF_ALL_DAYS = "day = any(%(days)s)", "day between %(first)s and %(last)s"
_NEWEST = [_PAGE.format(direction="desc", days=days) for days in (_OF_DAYS, _OF_ALL_DAYS)]
_OLDEST = [_PAGE.format(direction="asc", days=days) for days in (_OF_DAYS, _OF_ALL_DAYS)]

_MOST_SECONDS = 253_402_300_799
"""9999-12-31, and its like before 1970: beyond them Postgres has no time."""


@dataclass(frozen=True)
class _Count:
    count: int


@dataclass(frozen=True)
class _Ends:
    latest: int | None
    oldest: int | None


@dataclass(frozen=True)
class _Days:
    days: list[date] | None
    promised: int


@dataclass(frozen=True)
class _Row:
    listened_at: int
    inserted_at: int
    recording_msid: str
    user_id: str
    artist: str
    track: str
    album: str | None
    duration_ms: int | None
    recording_mbid: str | None
    release_mbid: str | None
    artist_mbids: str | None
    submission_client: str | None


@router.get("/user/{user_name:path}/listens", responses=shapes.answers(shapes.Listens, 400, 404))
async def get_listens(
    request: Request,
    marts: VersionedMarts,
    connection: Marts,
    response: Response,
    user_name: Name,
    min_ts: Text = None,
    max_ts: Text = None,
    count: Text = None,
) -> Response:
    """A page of listens, newest first: the newest older than `max_ts`, or the oldest newer than `min_ts`.

    Both bounds are exclusive, and may be given together.
    """
    after, before = timestamp("min_ts", min_ts), timestamp("max_ts", max_ts)
    wanted = items(count)
    if after is not None and before is not None and before <= after:
        raise ApiError("max_ts should be greater than min_ts")
    user = await find_user(request, marts, user_name)
    ends = await marts.row(_Ends, _ENDS, user=user.user_id)
    rows = await _page(connection, user, after, before, wanted)
    payload = {
        "count": len(rows),
        "user_id": user_name,
        "latest_listen_ts": ends.latest or 0,
        "oldest_listen_ts": ends.oldest or 0,
        "listens": [_listen(row) for row in rows],
    }
    return answer({"payload": payload}, like=response)


@router.get("/user/{user_name:path}/listen-count", responses=shapes.answers(shapes.ListenCount, 404))
async def get_listen_count(request: Request, marts: VersionedMarts, response: Response, user_name: Name) -> Response:
    """How many listens a user has."""
    user = await find_user(request, marts, user_name)
    count = (await marts.row(_Count, _COUNT, user=user.user_id)).count
    return answer({"payload": {"count": count}}, like=response)


@router.get("/user/{user_name:path}/playing-now", responses=shapes.answers(shapes.PlayingNow, 404))
async def get_playing_now(
    request: Request, connection: Marts, app: AppState, response: Response, user_name: Name
) -> Response:
    """What a user hears right now, if a client said so; also before the first build."""
    playing = [
        {
            "track_metadata": {"additional_info": {}, **each.track_metadata},
            "user_name": each.user_name,
            "playing_now": True,
        }
        for each in await playing_now(app, user_name)
    ]
    if not playing:
        await find_user(request, await reader(request, response, connection), user_name)
        del response.headers["etag"]  # it changes without a build
    response.headers["cache-control"] = "no-store"
    payload = {"count": len(playing), "user_id": user_name, "playing_now": True, "listens": playing}
    return answer({"payload": payload}, like=response)


async def _page(connection: Marts, user: User, after: int | None, before: int | None, count: int) -> list[_Row]:
    """Return a page, newest first; what a day is depends on the user's time zone, so one more on each side."""
    if not count:
        return []
    asked = {
        "user": user.user_id,
        "after": _bounded(-_MOST_SECONDS if after is None else after),
        "before": _bounded(_MOST_SECONDS if before is None else before),
        "count": count,
        "first": _FIRST if after is None else _day(after, -_ONE_DAY),
        "last": _LAST if before is None else _day(before, _ONE_DAY),
        "sure_first": _FIRST if after is None else _day(after, _ONE_DAY),
        "sure_last": _LAST if before is None else _day(before, -_ONE_DAY),
    }
    [found] = await select(connection, _Days, _DAYS_BACK if after is None else _DAYS_FORTH, **asked)
    of_days, of_all_days = _NEWEST if after is None else _OLDEST
    rows = await select(connection, _Row, of_days, **asked, days=found.days or [])
    if len(rows) < min(count, found.promised):  # a build is going on: it counts the days after the listens
        rows = await select(connection, _Row, of_all_days, **asked)
    return rows if after is None else rows[::-1]


def _bounded(seconds: int) -> int:
    return max(-62_135_596_800, min(seconds, _MOST_SECONDS))


def _day(seconds: int, shift: timedelta) -> date:
    try:
        return datetime.fromtimestamp(seconds, UTC).date() + shift
    except (ValueError, OverflowError, OSError):
        return _FIRST if seconds < 0 else _LAST


def _listen(row: _Row) -> dict[str, Any]:
    """Return a listen in ListenBrainz' form; what isn't known is left out."""
    known = {
        "duration_ms": row.duration_ms,
        "recording_mbid": row.recording_mbid,
        "release_mbid": row.release_mbid,
        "artist_mbids": mbids(row.artist_mbids),
        "submission_client": row.submission_client,
    }
    metadata: dict[str, Any] = {"artist_name": row.artist, "track_name": row.track}
    if row.album is not None:
        metadata["release_name"] = row.album
    metadata["additional_info"] = {
        "recording_msid": row.recording_msid,
        **{name: value for name, value in known.items() if value is not None},
    }
    return {
        "listened_at": row.listened_at,
        "inserted_at": row.inserted_at,
        "recording_msid": row.recording_msid,
        "user_name": row.user_id,
        "track_metadata": metadata,
    }


def mbids(text: str | None) -> list[str] | None:
    """Read what the marts keep as JSON; it may be anything that a client once sent."""
    if text is None:
        return None
    try:
        found = from_json(text)
    except ValueError:
        return None
    return [mbid for mbid in found if isinstance(mbid, str)] if isinstance(found, list) else None
