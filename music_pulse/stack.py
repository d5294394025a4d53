"""The warehouse that a command works on: the embedded Postgres with logins of its own, or the named one."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from music_pulse import database
from music_pulse.errors import DatabaseError
from music_pulse.settings import Settings

_ALMOST_NOTHING = 32 * 1024 * 1024
_ROLES = ("loader", "transformer", "reader")


@contextmanager
def warehouse(settings: Settings) -> Iterator[Settings]:
    """Yield settings that lead to a prepared database; `DatabaseError` says what is in the way.

    For target `embedded` the server runs as long as somebody is inside (or until `pulse down`, after
    `pulse up`).
    """
    if settings.target != "embedded":
        _prepare(settings)
        yield settings
        return
    from music_pulse.embedded import postgres

    with postgres.running(settings.home) as endpoint:
        filled = with_endpoint(settings, endpoint.host, endpoint.port, endpoint.user, endpoint.password)
        try:
            _prepare(filled)
            yield filled
        except DatabaseError as error:
            # A server whose disk is full may just vanish: say why.
            if shutil.disk_usage(settings.home).free > _ALMOST_NOTHING or "space left" in str(error):
                raise
            raise DatabaseError(f"no space left in {settings.home}: free some and run again ({error})") from error


def _prepare(settings: Settings) -> None:
    """Make what is missing, the raw tables too: dbt builds before anything was loaded or streamed."""
    from extract.pipeline import create_raw_tables
    from streaming.tables import create_stream_tables

    database.prepare(settings)
    with database.connect(settings.credentials("loader"), autocommit=True) as connection:
        create_raw_tables(connection)
        create_stream_tables(connection)


def with_endpoint(settings: Settings, host: str, port: int, user: str, password: str) -> Settings:
    """Return a copy of the settings that leads to the embedded server, with a login for each role."""
    filled: dict[str, object] = {
        "postgres_host": host,
        "postgres_port": port,
        "postgres_user": user,
        "postgres_password": SecretStr(password),
        "postgres_sslmode": "disable",  # the server is built without TLS, and only this machine reaches it
    }
    folder = settings.home / "postgres"
    # The login of the app came later: homes from before have no password of it in roles.json.
    passwords = kept_secrets(folder / "roles.json", _ROLES) | kept_secrets(folder / "app_role.json", ["app"])
    for role, secret in passwords.items():
        filled[f"postgres_{role}_user"] = f"pulse_{role}"
        filled[f"postgres_{role}_password"] = SecretStr(secret)
    return settings.model_copy(update=filled)


def environment(settings: Settings) -> dict[str, str]:
    """Return the variables that dbt's profiles.yml reads, with the transformer's login.

    The database has a name apart from our setting's: in a shell with the demo's, `pulse` still means the real one.
    """
    login = settings.credentials("transformer")
    return {
        "PULSE_POSTGRES_HOST": login.host,
        "PULSE_POSTGRES_PORT": str(login.port),
        "PULSE_POSTGRES_USER": login.user,
        "PULSE_POSTGRES_PASSWORD": login.password,
        "PULSE_DBT_DBNAME": login.dbname,
        "PULSE_POSTGRES_SSLMODE": login.sslmode,
    }


def write_env_file(settings: Settings) -> Path:
    """Write `home/env`, to be sourced by who types dbt or psql by hand; only its owner may read it."""
    path = settings.home / "env"
    login = settings.credentials("transformer")
    variables = environment(settings) | {
        "PGHOST": login.host,
        "PGPORT": str(login.port),
        "PGUSER": login.user,
        "PGPASSWORD": login.password,
        "PGDATABASE": login.dbname,
        "PGSSLMODE": login.sslmode,
    }
    lines = [f"export {name}={_quoted(value)}\n" for name, value in variables.items()]
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        _private_copy(path, "".join(lines)).replace(path)
    except OSError as error:
        raise DatabaseError(f"can't write {path}: {error.strerror}") from error
    return path


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


def kept_secrets(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Return secrets (43 letters, of 32 random bytes) by name, made up once, by whoever comes first."""
    try:
        if not path.exists():
            _create(path, json.dumps({name: secrets.token_urlsafe(32) for name in names}))
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {name: str(kept[name]) for name in names}
    except OSError as error:
        raise DatabaseError(f"can't use {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        raise DatabaseError(f"{path} is damaged: remove it, the next start makes new ones") from None


def _create(path: Path, text: str) -> None:
    """Create a file whole, unless another process has been faster."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = _private_copy(path, text)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _private_copy(path: Path, text: str) -> Path:
    """Write `text` to a new file beside `path` that only its owner may read (mkstemp's mode is 0600)."""
    descriptor, name = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return Path(name)
