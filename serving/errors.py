"""What goes wrong in a request -> its answer, always as JSON: {"code": 503, "error": "..."}."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import psycopg
from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from psycopg import errors
from starlette.exceptions import HTTPException

from music_pulse.errors import PulseError

logger = logging.getLogger(__name__)

UNKNOWN = "An unknown error occured."
"""ListenBrainz' words, spelling included: clients compare them."""

OFFLINE = "The listen database is momentarily offline. Please wait a few minutes and try again."
NOT_BUILT = "Nothing is built yet: run `pulse run`, then try again."
UNBUILT = (errors.UndefinedTable, errors.InvalidSchemaName)
"""What a statement over the marts raises before the first build."""


class ApiError(PulseError):
    """A request that is answered with `status`; `listen`, the one at fault, is spread over the answer."""

    def __init__(self, message: str, status: int = 400, *, listen: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.listen = listen or {}

    @property
    def answer(self) -> dict[str, Any]:
        """The body of the answer."""
        return {**self.listen, **body(self.status, str(self))}


def body(status: int, text: str) -> dict[str, Any]:
    """Return what every error says."""
    return {"code": status, "error": text}


def add_handlers(app: FastAPI) -> None:
    """Answer errors of every route; what is unforeseen is `serving.door`'s."""

    @app.exception_handler(ApiError)
    async def refused(_request: Request, error: ApiError) -> JSONResponse:
        return _Answer(error.answer, error.status)

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> Response:
        if error.status_code in (204, 304):  # they have no body
            return Response(status_code=error.status_code, headers=error.headers)
        return _Answer(body(error.status_code, str(error.detail)), error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        problems = error.errors()
        text = "; ".join(f"{each['loc'][-1]}: {each['msg']}" for each in problems)
        return _Answer({**body(422, text), "detail": jsonable_encoder(problems)}, 422)

    @app.exception_handler(psycopg.Error)
    async def database(request: Request, error: psycopg.Error) -> JSONResponse:
        if isinstance(error, psycopg.DataError):  # a NUL in a name, a number beyond what a column holds
            return _Answer(body(400, "an argument has a value that can't be"), 400)
        if isinstance(error, (*UNBUILT, errors.UndefinedColumn)):
            return _Answer(body(503, NOT_BUILT), 503)
        logger.warning("%s: %s", request.url.path.split("/")[1], str(error).splitlines()[0] if str(error) else error)
        return _Answer(body(503, OFFLINE), 503)


class _Answer(JSONResponse):
    def render(self, content: Any) -> bytes:
        """Encode also what came with a lone surrogate, which UTF-8 can't say."""
        from music_pulse.listens import to_json

        return to_json(content).encode()
