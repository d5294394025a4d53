"""POST /1/submit-listens and GET /1/validate-token: where a scrobbler is pointed at.

A listen is acknowledged when it is safe: the broker has it, or without one the database (`serving.intake`).
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from serving.errors import ApiError
from serving.listenbrainz import shapes
from serving.listenbrainz.answers import answer
from serving.listenbrainz.askers import authorized, limited, presented_token, token_in_query
from serving.listenbrainz.body import read_body
from serving.listenbrainz.rules import ListenType, Submission, read_submission
from serving.playing_now import put_playing_now

router = APIRouter(prefix="/1", dependencies=[Depends(limited), Depends(token_in_query)], tags=["ListenBrainz"])

_LARGE = 65_536
"""Bytes from which reading a body would keep others waiting."""

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["listen_type", "payload"],
                    "properties": {
                        "listen_type": {"enum": [each.value for each in ListenType]},
                        "payload": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 1000,
                            "items": {
                                "type": "object",
                                "required": ["track_metadata"],
                                "properties": {
                                    "listened_at": {"type": "integer", "description": "Seconds since 1970."},
                                    "track_metadata": {
                                        "type": "object",
                                        "required": ["artist_name", "track_name"],
                                        "properties": {
                                            "artist_name": {"type": "string"},
                                            "track_name": {"type": "string"},
                                            "release_name": {"type": "string"},
                                            "additional_info": {"type": "object"},
                                        },
                                    },
                                },
                            },
                        },
                    },
                }
            }
        },
    }
}


@router.post("/submit-listens", responses=shapes.answers(shapes.Accepted, 401, 408, 415), openapi_extra=_BODY)
async def submit_listens(request: Request, user: Annotated[str, Depends(authorized)]) -> Response:
    """Take listens, all or none. A repeat changes nothing."""
    metrics = request.app.state.metrics
    try:
        body = await read_body(request)
        now = time.time()
        if len(body) > _LARGE:
            submission = await asyncio.to_thread(read_submission, body, user, now)
        else:
            submission = read_submission(body, user, now)
        await _keep(request, user, submission)
    except ApiError as error:
        metrics.refused.labels(str(error.status)).inc()
        raise
    metrics.listens.labels(submission.listen_type.value).inc(len(submission.listens))
    return answer({"status": "ok"})


@router.get("/validate-token", responses=shapes.answers(shapes.TokenVerdict))
async def validate_token(request: Request) -> Response:
    """Tell whose token this is."""
    presented = presented_token(request)
    if not presented:
        raise ApiError("You need to provide an Authorization token.")
    name = await request.app.state.askers.user(request, presented)
    if name is None:
        return answer({"code": 200, "message": "Token invalid.", "valid": False})
    return answer({"code": 200, "message": "Token valid.", "valid": True, "user_name": name})


async def _keep(request: Request, user: str, submission: Submission) -> None:
    if submission.listen_type is not ListenType.PLAYING_NOW:
        await request.app.state.intake.submit(user, submission.listens)
        return
    [listen], [valid] = submission.listens, submission.valid
    async with request.app.state.databases.app.connection() as connection:
        await put_playing_now(connection, user, listen["track_metadata"], valid.duration_ms)
