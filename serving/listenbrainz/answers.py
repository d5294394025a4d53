"""Answers as JSON, also of what came with a lone surrogate, which UTF-8 can't say."""

from __future__ import annotations

from typing import Any

from fastapi import Response

from music_pulse.listens import to_json


def answer(content: Any, like: Response | None = None) -> Response:
    """Return the answer, with the headers (ETag, Cache-Control) that dependencies of the route gave to `like`."""
    headers = {} if like is None else dict(like.headers)
    return Response(to_json(content), media_type="application/json", headers=headers)
