"""The read API of the page, for others, too: `/api/…`, typed and paged, documented at `/docs`.

marts --marts_reader.py--> models of api_models.py; the statements are in api_sql.py

Every list is bounded by `limit` and `offset`. Answers from the marts carry an ETag that changes with each build that
changes the marts; what is live (`/api/trending`, `/api/status`) is never stored. `/api/events` is in events.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Response

from serving import api_sql as sql
from serving.api_models import (
    Bar,
    Discovery,
    Hour,
    OverTime,
    Overview,
    Page,
    PlayingNow,
    Session,
    Status,
    Streak,
    Top,
    Trending,
    TrendingTable,
    User,
)
from serving.database import AppState, Connection, Marts
from serving.errors import UNBUILT
from serving.events import router as events
from serving.marts_reader import MartsReader, Row, VersionedMarts, select
from serving.playing_now import playing_now

router = APIRouter(
    prefix="/api",
    tags=["page"],
    responses={
        400: {"description": "An argument that can't be"},
        404: {"description": "No such user, or no listens"},
        503: {"description": "No database, or nothing built yet"},
    },
)
router.include_router(events)

RANGES = {"day": 1, "week": 7, "month": 30, "year": 365}
"""Days, the last one included."""
HISTORY_WINDOWS = 24
"""Of a sparkline: two hours of the default windows."""

_A_YEAR = timedelta(days=366)


@dataclass(frozen=True)
class Slice:
    """Which part of a list is asked for."""

    limit: Annotated[int, Query(ge=1, le=500, description="Most items of a page.")] = 50
    offset: Annotated[int, Query(ge=0, le=1_000_000, description="Items to leave out.")] = 0

    async def page(self, marts: MartsReader, model: type[Row], statement: str, **parameters: object) -> dict[str, Any]:
        """Return the fields of a `Page`; one row more than a page is asked for, to tell whether there is a next one."""
        rows = await marts.rows(model, statement, limit=self.limit + 1, offset=self.offset, **parameters)
        return {"items": rows[: self.limit], "next_offset": self.next_offset(len(rows))}

    def next_offset(self, rows: int) -> int | None:
        return self.offset + self.limit if rows > self.limit else None


@dataclass(frozen=True)
class Selection:
    """Whose listens, of which days."""

    user: str | None
    first: date
    last: date

    @property
    def parameters(self) -> dict[str, object]:
        return {"user": self.user, "first": self.first, "last": self.last}

    @property
    def period(self) -> dict[str, date]:
        return {"first_day": self.first, "last_day": self.last}


@dataclass(frozen=True)
class _Days:
    first_day: date | None
    last_day: date | None


async def selection(
    marts: VersionedMarts,
    user: Annotated[str | None, Query(max_length=255, description="A `user_id`; left out: everybody.")] = None,
    range_: Annotated[
        Literal["day", "week", "month", "year", "all"],
        Query(alias="range", description="1, 7, 30 or 365 days, up to `to`, or all; with `from` it has no meaning."),
    ] = "month",
    from_: Annotated[date | None, Query(alias="from", description="First day of a range of one's own.")] = None,
    to: Annotated[date | None, Query(description="Last day; left out: the newest with listens.")] = None,
) -> Selection:
    """Turn what was asked for into days. 404 for an unknown user, 422 for a range that ends before it begins."""
    held = await marts.row(_Days, sql.DAYS_OF_ALL if user is None else sql.DAYS_OF_USER, user=user)
    if held.first_day is None or held.last_day is None:
        raise HTTPException(404, "there are no listens" + ("" if user is None else f" of {user}"))
    last = to or held.last_day
    if (from_ or last) > last:
        raise HTTPException(422, "the range ends before it begins")
    # Nobody needs the bars of years without a listen.
    last = min(max(last, held.first_day), held.last_day + _A_YEAR)
    first = from_ or (held.first_day if range_ == "all" else last - timedelta(days=RANGES[range_] - 1))
    return Selection(user, min(max(first, held.first_day - _A_YEAR), last), last)


Selected = Annotated[Selection, Depends(selection, scope="function")]
Sliced = Annotated[Slice, Depends(Slice)]


@router.get("/status")
async def status(marts: Marts, response: Response) -> Status:
    """Tell how fresh the answers are, also before the first build."""
    response.headers["Cache-Control"] = "no-store"
    try:
        [found] = await select(marts, Status, sql.STATUS)
    except UNBUILT:
        return Status(version=None, changed_at=None, pending_loads=0, stream_committed_at=None)
    return found


@router.get("/users")
async def users(marts: VersionedMarts, part: Sliced) -> Page[User]:
    """List the users, who listened most first."""
    return Page(**await part.page(marts, User, sql.USERS))


@router.get("/overview")
async def overview(marts: VersionedMarts, chosen: Selected) -> Overview:
    """Sum up a range."""
    return await marts.row(Overview, sql.OVERVIEW, **chosen.parameters)


@router.get("/top/{kind}")
async def top(
    marts: VersionedMarts, chosen: Selected, part: Sliced, kind: Literal["tracks", "artists", "albums"]
) -> Page[Top]:
    """Rank tracks, artists or albums by their listens. Spellings of one entity are one (docs/identity.md)."""
    statement = {"tracks": sql.TOP_TRACKS, "artists": sql.TOP_ARTISTS, "albums": sql.TOP_ALBUMS}[kind]
    return Page(**await part.page(marts, Top, statement, **chosen.parameters))


@router.get("/listens-over-time")
async def listens_over_time(
    marts: VersionedMarts,
    chosen: Selected,
    bucket: Annotated[
        Literal["day", "week", "month"] | None, Query(description="Left out: what gives a readable number of bars.")
    ] = None,
) -> OverTime:
    """Count listens and minutes by day, week (from Monday) or month."""
    days = (chosen.last - chosen.first).days
    bucket = bucket or ("day" if days <= 92 else "week" if days <= 731 else "month")
    bars = await marts.rows(Bar, sql.OVER_TIME, bucket=bucket, **chosen.parameters)
    return OverTime(**chosen.period, bucket=bucket, bars=bars)


@router.get("/heatmap/{year}")
async def heatmap(
    marts: VersionedMarts,
    year: Annotated[int, Path(ge=2002, le=9998)],
    user: Annotated[str | None, Query(max_length=255)] = None,
) -> OverTime:
    """Count listens and minutes of each day of a year."""
    first, last = date(year, 1, 1), date(year, 12, 31)
    bars = await marts.rows(Bar, sql.OVER_TIME, bucket="day", user=user, first=first, last=last)
    return OverTime(first_day=first, last_day=last, bucket="day", bars=bars)


@router.get("/clock")
async def clock(marts: VersionedMarts, chosen: Selected) -> list[Hour]:
    """Count listens by day of the week and hour, in the user's time zone."""
    return await marts.rows(Hour, sql.CLOCK, **chosen.parameters)


@router.get("/discoveries")
async def discoveries(marts: VersionedMarts, chosen: Selected, part: Sliced) -> Page[Discovery]:
    """List the artists that were heard for the first time in the range, the newest first."""
    return Page(**await part.page(marts, Discovery, sql.DISCOVERIES, **chosen.parameters))


Order = Annotated[Literal["longest", "newest"], Query()]


@router.get("/streaks")
async def streaks(
    marts: VersionedMarts,
    chosen: Selected,
    part: Sliced,
    order: Order = "longest",
) -> Page[Streak]:
    """List days in a row on which one user listened, that touch the range; empty for everybody."""
    statement = sql.LONGEST_STREAKS if order == "longest" else sql.NEWEST_STREAKS
    return Page(**await part.page(marts, Streak, statement, **chosen.parameters))


@router.get("/sessions")
async def sessions(marts: VersionedMarts, chosen: Selected, part: Sliced, order: Order = "newest") -> Page[Session]:
    """List the sessions that began in the range."""
    statement = sql.LONGEST_SESSIONS if order == "longest" else sql.NEWEST_SESSIONS
    return Page(**await part.page(marts, Session, statement, **chosen.parameters))


@router.get("/playing-now")
async def now(app: AppState, response: Response) -> list[PlayingNow]:
    """List what is heard at this moment, as scrobblers say: none of it is a listen yet."""
    response.headers["Cache-Control"] = "no-store"
    return [
        PlayingNow(
            user_id=each.user_name,
            track_name=str(each.track_metadata["track_name"]),
            artist_name=str(each.track_metadata["artist_name"]),
            started_at=each.started_at,
        )
        for each in await playing_now(app)
    ]


class _Ranked(Trending):
    window_start: datetime
    window_end: datetime
    history: list[int] = []


@dataclass(frozen=True)
class _Heard:
    id: UUID
    window_start: datetime
    listeners: int


@router.get("/trending")
async def trending(
    marts: Marts, part: Sliced, response: Response, kind: Literal["track", "artist"] = "track"
) -> TrendingTable:
    """Rank what stands out in the newest window that has ended (docs/streaming.md); nothing before the first build."""
    response.headers["Cache-Control"] = "no-store"
    try:
        rows = await select(marts, _Ranked, sql.TRENDING, kind=kind, limit=part.limit + 1, offset=part.offset)
    except UNBUILT:
        rows = []
    if not rows:
        return TrendingTable(window_start=None, window_end=None, items=[], next_offset=None)
    shown = rows[: part.limit]
    start, length = rows[0].window_start, rows[0].window_end - rows[0].window_start
    starts = [start - place * length for place in reversed(range(HISTORY_WINDOWS))]
    heard = await _history(marts, kind, shown, starts)
    for row in shown:
        row.history = [heard.get((row.id, each), 0) for each in starts]
    return TrendingTable(
        window_start=start, window_end=rows[0].window_end, items=list(shown), next_offset=part.next_offset(len(rows))
    )


async def _history(
    marts: Connection, kind: str, rows: list[_Ranked], starts: list[datetime]
) -> dict[tuple[UUID, datetime], int]:
    ids = [row.id for row in rows]
    found = await select(marts, _Heard, sql.TRENDING_HISTORY, kind=kind, ids=ids, starts=starts)
    return {(each.id, each.window_start): each.listeners for each in found}
