"""/health: does the process live, and which of its parts are ready? /metrics: what Prometheus reads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Literal

import psycopg
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from music_pulse.errors import PulseError

logger = logging.getLogger(__name__)

router = APIRouter(tags=["Operations"])

_CHECK_SECONDS = 5.0


class Live(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Part(BaseModel):
    """A part, and in a line what it is doing, or why it can't."""

    ready: bool
    detail: str


class Readiness(BaseModel):
    """Ready when all parts are."""

    status: Literal["ok", "unready"]
    parts: dict[str, Part]


@router.get("/health/live")
async def live() -> Live:
    """Tell that the process answers; nothing else is asked."""
    return Live()


@router.get("/health", responses={503: {"model": Readiness}})
@router.get("/health/ready", responses={503: {"model": Readiness}})
async def ready(request: Request, response: Response) -> Readiness:
    """Ask each part: the marts, what the server keeps, and where listens go. 503 if one isn't ready."""
    checks: dict[str, Callable[[Request], Awaitable[str]]] = {"marts": _marts, "app": _app, "ingest": _ingest}
    found = dict(zip(checks, await asyncio.gather(*(_part(check, request) for check in checks.values())), strict=True))
    is_ready = all(part.ready for part in found.values())
    response.status_code = 200 if is_ready else 503
    response.headers["cache-control"] = "no-store"
    return Readiness(status="ok" if is_ready else "unready", parts=found)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Counts and times, in Prometheus' text."""
    registry = request.app.state.metrics.registry
    return Response(await asyncio.to_thread(generate_latest, registry), headers={"content-type": CONTENT_TYPE_LATEST})


async def _part(check: Callable[[Request], Awaitable[str]], request: Request) -> Part:
    try:
        return Part(ready=True, detail=await asyncio.wait_for(check(request), _CHECK_SECONDS))
    except TimeoutError:
        return Part(ready=False, detail=f"no answer in {_CHECK_SECONDS:g} s")
    except psycopg.errors.UndefinedTable:
        return Part(ready=False, detail="nothing is built yet: run `pulse run`")
    except psycopg.Error:
        return Part(ready=False, detail="the database can't be reached")
    except PulseError as error:
        logger.warning("not ready: %s", error)
        return Part(ready=False, detail="listens can't be taken just now")


async def _marts(request: Request) -> str:
    async with request.app.state.databases.marts.connection() as connection:
        row = await (await connection.execute("select pending_loads from marts.freshness")).fetchone()
    return f"{row[0] if row else 0:,} loads wait for a build"


async def _app(request: Request) -> str:
    async with request.app.state.databases.app.connection() as connection:
        row = await (await connection.execute("select count(*) from app.tokens")).fetchone()
    return f"{row[0] if row else 0:,} tokens"


async def _ingest(request: Request) -> str:
    return await asyncio.to_thread(request.app.state.check_ingest)
