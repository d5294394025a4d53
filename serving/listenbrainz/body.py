"""A request's body, read within bounds: of size, also unpacked, and of time."""

from __future__ import annotations

import asyncio
import zlib

from starlette.requests import ClientDisconnect, Request

from serving.errors import ApiError

MAX_BODY = 10_240_000
"""Bytes, packed or unpacked: 1,000 listens of 10,240."""

BODY_SECONDS = 20.0
"""How long a body may take to come."""

TOO_LARGE = f"Payload too large. Payload cannot exceed {MAX_BODY} bytes"


async def read_body(request: Request) -> bytes:
    """Return the body, unpacked if its Content-Encoding says that it is packed. Raises `ApiError`."""
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAX_BODY:
                    raise ApiError(TOO_LARGE)
                chunks.append(chunk)
    except TimeoutError:
        raise ApiError("The body came too slowly.", 408) from None
    except ClientDisconnect:
        raise ApiError("The body was cut off.") from None
    body = b"".join(chunks)
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding in ("gzip", "x-gzip", "deflate"):
        return _unpacked(body, encoding)
    if encoding not in ("", "identity"):
        raise ApiError(f"Content-Encoding {encoding} isn't understood: send gzip, or plain JSON.", 415)
    return body


def _unpacked(body: bytes, encoding: str) -> bytes:
    """Unpack no more than is allowed, whatever a small body claims to hold."""
    decoder = zlib.decompressobj(zlib.MAX_WBITS if encoding == "deflate" else zlib.MAX_WBITS | 16)
    try:
        unpacked = decoder.decompress(body, MAX_BODY + 1)
    except zlib.error:
        raise ApiError(f"The body isn't {encoding}, though Content-Encoding says so.") from None
    if len(unpacked) > MAX_BODY:
        raise ApiError(TOO_LARGE)
    if not decoder.eof:
        raise ApiError("The body was cut off.")
    return unpacked
