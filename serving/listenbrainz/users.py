"""A name in an address -> the user it means: matched by `identity.key`, as all names are here."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from music_pulse.identity import key
from serving.errors import ApiError
from serving.marts_reader import MartsReader

_USERS = "select user_id from marts.reconciliation where user_id <> ''"
_WITH_TOKEN = "select user_name from app.tokens where user_key = %s limit 1"  # noqa: S105


@dataclass(frozen=True)
class User:
    """A user of the marts; one who only has a token has no listens there yet."""

    user_id: str


async def find_user(request: Request, marts: MartsReader, name: str) -> User:
    """Return the user of that name. Raises `ApiError` 404."""
    wanted = key(name)
    for user in await marts.rows(User, _USERS):
        if key(user.user_id) == wanted:
            return user
    if "\x00" not in name:
        async with request.app.state.databases.app.connection() as connection:
            row = await (await connection.execute(_WITH_TOKEN, [wanted])).fetchone()
        if row is not None:
            return User(row[0])
    raise ApiError(f"Cannot find user: {name}", 404)
