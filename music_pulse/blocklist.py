"""Who was forgotten and stays out: what each way in asks before it takes listens of a person.

raw.blocked_users holds no names: of each its HMAC-SHA-256 under a key that isn't in the database, over
`identity.key`, so that all spellings are one. The table is made by the first erasure; until then the list is empty.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from music_pulse.errors import ConfigurationError, InputError, PulseError
from music_pulse.identity import key
from music_pulse.settings import Settings

if TYPE_CHECKING:
    import psycopg

KEY_FILE = "blocklist.key"
"""In PULSE_HOME, where the settings name no key."""

_CACHED_NAMES = 100_000
_CHECK = b"music-pulse blocklist key"
_TABLES = b"""
create table if not exists raw.blocked_users (
    user_hash text primary key,
    key_check text not null,
    blocked_at timestamptz not null
);
create table if not exists raw.erasures (
    erasure_id uuid primary key,
    user_hash text not null,
    begun_at timestamptz not null,
    finished_at timestamptz,
    rows_deleted jsonb not null
);
"""


class Blocklist:
    """The people who are kept out, by the keyed hashes of their names. An empty one is false, and asking it is free."""

    def __init__(self, secret: bytes = b"", hashes: Iterable[str] = ()) -> None:
        self.secret = secret
        self.hashes = frozenset(hashes)
        self._known: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return bool(self.hashes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Blocklist) and self.hashes == other.hashes

    __hash__ = None  # type: ignore[assignment]

    def __contains__(self, user_name: str) -> bool:
        if not self.hashes:
            return False
        found = self._known.get(user_name)
        if found is None:
            if len(self._known) >= _CACHED_NAMES:
                self._known.clear()
            found = self._known[user_name] = keyed_hash(self.secret, user_name) in self.hashes
        return found

    def refuse(self, user_names: Iterable[str | None]) -> None:
        """Raise `InputError`, which names nobody, if one of them is on the list."""
        if self.hashes and any(name is not None and name in self for name in user_names):
            raise InputError(
                "these are listens, or among them are, of a person who was forgotten here and is kept out; "
                "if that person wants to come back, add --user NAME --allow"
            )


def keyed_hash(secret: bytes, user_name: str) -> str:
    """Return the hash (hexadecimal) by which a person of this name, however spelt, is known."""
    return hmac.digest(secret, key(user_name).encode("utf-8", "surrogatepass"), "sha256").hex()


def read_blocklist(connection: psycopg.Connection[Any], settings: Settings) -> Blocklist:
    """Return the list as committed. Raises `ConfigurationError` if it was written under a key that isn't ours."""
    if connection.execute("select to_regclass('raw.blocked_users')").fetchone() == (None,):
        return Blocklist()
    rows = connection.execute("select user_hash, key_check from raw.blocked_users").fetchall()
    if not rows:
        return Blocklist()
    secret = _secret(settings)
    if secret is None or {check for _, check in rows} != {_check(secret)}:
        raise ConfigurationError(
            "raw.blocked_users was written under another key, so nobody can be kept out: set PULSE_BLOCKLIST_KEY "
            f"to it, or bring back {settings.home / KEY_FILE}"
        )
    return Blocklist(secret, (user_hash for user_hash, _ in rows))


def block(connection: psycopg.Connection[Any], settings: Settings, user_name: str) -> Blocklist:
    """Put a person on the list, under a key made now if there is none; the caller commits. Return the new list.

    The login must own schema raw (role loader). Raises `ConfigurationError` as `read_blocklist` does.
    """
    connection.execute("set local client_min_messages to warning")
    connection.execute(_TABLES)
    read_blocklist(connection, settings)
    secret = _secret(settings) or _make_secret(settings)
    connection.execute(
        "insert into raw.blocked_users (user_hash, key_check, blocked_at) values (%s, %s, now())"
        " on conflict do nothing",
        [keyed_hash(secret, user_name), _check(secret)],
    )
    return read_blocklist(connection, settings)


def unblock(connection: psycopg.Connection[Any], settings: Settings, user_name: str) -> bool:
    """Take a person off the list; whether there was one. Raises `InputError` while the erasure isn't finished."""
    blocklist = read_blocklist(connection, settings)
    if user_name not in blocklist:
        return False
    user_hash = keyed_hash(blocklist.secret, user_name)
    statement = "select exists (select 1 from raw.erasures where user_hash = %s and finished_at is null)"
    if connection.execute(statement, [user_hash]).fetchone() == (True,):
        raise InputError("the erasure of this person was interrupted: finish it first with pulse forget --user NAME")
    connection.execute("delete from raw.blocked_users where user_hash = %s", [user_hash])
    return True


def _check(secret: bytes) -> str:
    """What tells that a hash was made under this key."""
    return hmac.digest(secret, _CHECK, "sha256").hex()[:16]


def _secret(settings: Settings) -> bytes | None:
    """Return the key, 32 bytes; None if there is none yet."""
    if settings.blocklist_key is not None:
        text = settings.blocklist_key.get_secret_value()
    else:
        try:
            text = (settings.home / KEY_FILE).read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise PulseError(f"can't read {settings.home / KEY_FILE}: {error}") from error
    return hashlib.sha256(text.encode()).digest()


def _make_secret(settings: Settings) -> bytes:
    """Make the key file, unless another process has been faster; only its owner may read it."""
    path = settings.home / KEY_FILE
    settings.home.mkdir(parents=True, exist_ok=True)
    try:
        aside = path.with_name(f".{KEY_FILE}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(aside, path)
        except FileExistsError:
            pass
        finally:
            aside.unlink()
    except OSError as error:
        raise PulseError(f"can't write {path}: {error.strerror}") from error
    secret = _secret(settings)
    assert secret is not None
    return secret
