"""Tokens: who may send listens, and as whom. Only their hashes are kept; a token is shown once.

`pulse token` -> app.tokens -> who a request is from
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime
from typing import NamedTuple
from uuid import uuid4

from music_pulse.database import connect
from music_pulse.errors import InputError
from music_pulse.identity import key
from music_pulse.listens import MAX_USER_NAME, escaped
from music_pulse.settings import Settings
from serving.app_tables import create_app_tables
from serving.database import Connection

_HALF = 16


class Issued(NamedTuple):
    """A token as it is listed: nothing of it that could be used; `created_at` in UTC."""

    user_name: str
    created_at: datetime
    mark: str
    """The beginning of its hash, by which two tokens of one user are told apart."""


def create_token(settings: Settings, user_name: str) -> str:
    """Make a token of a user, keep its hash, and return it. Raises `InputError` for a name that can't be one."""
    name = user_name.strip()
    if not key(name) or len(name) > MAX_USER_NAME or escaped(name) != name or not name.isprintable():
        raise InputError(f"a user's name has 1 to {MAX_USER_NAME} characters in one line, and not {user_name!r}")
    create_app_tables(settings)
    token = str(uuid4())
    selector, verifier = _halves(token)
    with connect(settings.credentials("app")) as connection:
        # One person, one spelling: listens are landed under the name of the token.
        spelt = connection.execute(
            "select user_name from app.tokens where user_key = %s order by created_at limit 1", [key(name)]
        ).fetchone()
        connection.execute(
            "insert into app.tokens (selector, verifier, user_name, user_key) values (%s, %s, %s, %s)",
            [selector, verifier, spelt[0] if spelt else name, key(name)],
        )
    return token


def list_tokens(settings: Settings) -> list[Issued]:
    """Return all tokens, by user and age."""
    create_app_tables(settings)
    with connect(settings.credentials("app")) as connection:
        rows = connection.execute(
            "select user_name, created_at, encode(selector, 'hex') from app.tokens order by user_key, created_at"
        ).fetchall()
    return [Issued(name, created_at, mark[:8]) for name, created_at, mark in rows]


def revoke_tokens(settings: Settings, user_name: str) -> int:
    """Revoke all tokens of a user, however spelt, at once; return how many. Raises `InputError` where there is none."""
    create_app_tables(settings)
    with connect(settings.credentials("app")) as connection:
        gone = connection.execute("delete from app.tokens where user_key = %s", [key(user_name)]).rowcount
        connection.execute("delete from app.playing_now where user_key = %s", [key(user_name)])
    if not gone:
        raise InputError(f"{user_name!r} has no token; pulse token list shows who has one")
    return gone


async def user_of(connection: Connection, token: str) -> str | None:
    """Return the name of the user whose token this is, if it is one."""
    selector, verifier = _halves(token)
    cursor = await connection.execute("select user_name, verifier from app.tokens where selector = %s", [selector])
    row = await cursor.fetchone()
    return row[0] if row is not None and hmac.compare_digest(row[1], verifier) else None


def selector_of(token: str) -> bytes:
    """Return what a token is known by, which is no secret."""
    return _halves(token)[0]


def _halves(token: str) -> tuple[bytes, bytes]:
    digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
    return digest[:_HALF], digest[_HALF:]
