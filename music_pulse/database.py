"""What every part shares to reach Postgres, embedded or any other: connect, and prepare a database.

Importing this module is quick: psycopg is imported where it is first needed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from music_pulse.errors import DatabaseError
from music_pulse.settings import Credentials, Role, Settings

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

log = logging.getLogger(__name__)

_LOADER_SCHEMAS = ("raw",)
_TRANSFORMER_SCHEMAS = ("staging", "intermediate", "marts")
_APP_SCHEMAS = ("app",)
_SCHEMAS = _LOADER_SCHEMAS + _TRANSFORMER_SCHEMAS + _APP_SCHEMAS
_OWN_LOGINS: tuple[Role, ...] = ("loader", "transformer", "reader", "app")
_VERSION = 2  # raise it when `_bootstrap` changes, so that existing databases get the change
_LOCK = 0x6D757369  # any number, the same in all of our processes
_MAINTENANCE = "postgres"  # the database that each cluster has


class _Logins(NamedTuple):
    """The user names of the five roles; equal ones are one login."""

    admin: str
    loader: str
    transformer: str
    reader: str
    app: str

    @property
    def separate(self) -> tuple[str, ...]:
        """The logins that aren't the admin's, each once."""
        return tuple(dict.fromkeys(name for name in self[1:] if name != self.admin))

    @property
    def marker(self) -> str:
        return (
            f"music-pulse bootstrap {_VERSION}: "
            f"loader={self.loader} transformer={self.transformer} reader={self.reader} app={self.app}"
        )


def connect(
    credentials: Credentials, *, autocommit: bool = False, **kwargs: Any
) -> psycopg.Connection[tuple[Any, ...]]:
    """Connect within 10 s; `DatabaseError` names the server and what to check. `kwargs` go to psycopg."""
    import psycopg

    options: dict[str, Any] = {"connect_timeout": 10, "application_name": "music-pulse", **kwargs}
    try:
        return psycopg.connect(
            host=credentials.host,
            port=credentials.port,
            user=credentials.user,
            password=credentials.password or None,
            dbname=credentials.dbname,
            sslmode=credentials.sslmode,
            autocommit=autocommit,
            **options,
        )
    except psycopg.Error as error:
        raise DatabaseError(
            f"can't reach Postgres at {credentials.host}:{credentials.port}: {one_line(error)}; check PULSE_POSTGRES_*"
        ) from None


def one_line(error: Exception) -> str:
    """Return a database error's first line, without libpq's preamble."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = re.sub(r"^(connection failed: )?connection to server at .*? failed: ", "", lines[0].strip())
    return re.sub(r"^(FATAL|ERROR): +", "", text)


def prepare(settings: Settings) -> None:
    """Make the database, its schemas, logins and grants, as far as they are missing.

    Safe to call at every start (a prepared database costs one connection) and by two processes at once.
    Logins that the settings don't name apart from the admin's are neither made nor granted anything.
    """
    import psycopg

    logins = _Logins(settings.credentials("admin").user, *(settings.credentials(role).user for role in _OWN_LOGINS))
    unreachable: DatabaseError | None = None
    try:
        try:
            if _is_prepared(settings, logins):
                return
        except DatabaseError as error:  # perhaps there just is no such database yet
            unreachable = error
        with _one_at_a_time(settings, unreachable) as created:
            _bootstrap(settings, logins, created)
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseError(
            f"Postgres doesn't let {logins.admin} prepare {settings.postgres_dbname}: {one_line(error)}; "
            "set PULSE_POSTGRES_USER to a login that may create databases and roles"
        ) from None
    except psycopg.Error as error:
        raise DatabaseError(f"can't prepare the database {settings.postgres_dbname}: {one_line(error)}") from None


def _is_prepared(settings: Settings, logins: _Logins) -> bool:
    """Tell whether `_bootstrap` ran here in this version, for these logins and passwords."""
    with connect(settings.credentials("admin"), autocommit=True) as connection:
        row = connection.execute(
            "select obj_description(to_regnamespace('raw'), 'pg_namespace'),"
            " (select count(*) from pg_namespace where nspname = any(%s)),"
            " has_table_privilege('pg_authid', 'select')",
            [list(_SCHEMAS)],
        ).fetchone()
        if row is None or row[0] != logins.marker or row[1] != len(_SCHEMAS):
            return False
        if not logins.separate or not row[2]:
            return True  # only a superuser can compare passwords
        rows = connection.execute(
            "select rolname, rolpassword from pg_authid where rolname = any(%s)", [list(logins.separate)]
        ).fetchall()
    verifiers = dict(rows)
    wanted = _passwords(settings, logins)
    return all(_matches(verifiers.get(user), password) for user, password in wanted.items())


def _passwords(settings: Settings, logins: _Logins) -> dict[str, str]:
    every = (settings.credentials(role) for role in _OWN_LOGINS)
    return {login.user: login.password for login in every if login.user in logins.separate}


def _matches(verifier: str | None, password: str) -> bool:
    """Tell whether a stored SCRAM-SHA-256 verifier (RFC 5803) is that of `password`."""
    found = re.fullmatch(r"SCRAM-SHA-256\$(\d+):([^$]+)\$([^:]+):(.+)", verifier or "")
    if not found:
        return False
    rounds, salt, stored = int(found[1]), base64.b64decode(found[2]), base64.b64decode(found[3])
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return hmac.compare_digest(hashlib.sha256(client_key).digest(), stored)


@contextmanager
def _one_at_a_time(settings: Settings, unreachable: DatabaseError | None) -> Iterator[bool]:
    """Create the database if it is missing; hold a lock; yield whether it was created.

    Advisory locks are per database, roles per cluster: so the lock is taken in the database that every
    cluster has, unless the login may not use it. `unreachable` is why our own database can't be used, if
    it can't: raised if the other one can't be, either.
    """
    admin = settings.credentials("admin")
    try:
        connection = connect(admin._replace(dbname=_MAINTENANCE), autocommit=True)
    except DatabaseError:
        if unreachable is not None:
            raise unreachable from None
        connection = connect(admin, autocommit=True)
    with connection:
        connection.execute("select pg_advisory_lock(%s)", [_LOCK])
        yield _create_database(connection, admin.dbname)


def _create_database(connection: psycopg.Connection[tuple[Any, ...]], name: str) -> bool:
    from psycopg import errors, sql

    if connection.execute("select 1 from pg_database where datname = %s", [name]).fetchone():
        return False
    statement = sql.SQL("create database {} encoding 'UTF8' template template0").format(sql.Identifier(name))
    try:
        connection.execute(statement)
    except (errors.DuplicateDatabase, errors.UniqueViolation):  # by somebody without our lock
        return False
    log.info("created the database %s", name)
    return True


def _bootstrap(settings: Settings, logins: _Logins, created: bool) -> None:
    admin = settings.credentials("admin")
    with connect(admin) as connection:
        row = connection.execute("show server_encoding").fetchone()
        if row is None or row[0] != "UTF8":
            raise DatabaseError(f"the database {admin.dbname} isn't in UTF-8: set PULSE_POSTGRES_DBNAME to another")
        for user, password in _passwords(settings, logins).items():
            _ensure_login(connection, user, password)
        for schema in _LOADER_SCHEMAS:
            _ensure_schema(connection, schema, logins.loader, logins)
        for schema in _TRANSFORMER_SCHEMAS:
            _ensure_schema(connection, schema, logins.transformer, logins)
        for schema in _APP_SCHEMAS:
            _ensure_schema(connection, schema, logins.app, logins)
        if logins.separate:
            _grant(connection, logins, admin.dbname, created)
        _mark(connection, logins)
    log.debug("prepared the database %s", admin.dbname)


def _ensure_login(connection: psycopg.Connection[tuple[Any, ...]], user: str, password: str) -> None:
    """Make a login, or give an existing one its password, if we may."""
    from psycopg import errors, sql

    # Hashed here, so that no password reaches the server's log, even with a statement that fails.
    verifier = connection.pgconn.encrypt_password(password.encode(), user.encode(), b"scram-sha-256").decode()
    name = sql.Identifier(user)
    exists = connection.execute("select 1 from pg_roles where rolname = %s", [user]).fetchone() is not None
    verb = sql.SQL("alter" if exists else "create")
    statement = sql.SQL("{} role {} login password {}").format(verb, name, sql.Literal(verifier))
    try:
        with connection.transaction():
            connection.execute(statement)
    except errors.InsufficientPrivilege:
        if not exists:
            raise
        log.debug("the login %s exists and isn't ours to change", user)
    if not _may_act_for(connection, user):
        with connection.transaction():
            connection.execute(sql.SQL("grant {} to current_user").format(name))


def _may_act_for(connection: psycopg.Connection[tuple[Any, ...]], user: str) -> bool:
    """Tell whether we may give objects to `user` and grant on its behalf (a superuser always may)."""
    row = connection.execute(
        "select rolsuper or pg_has_role(current_user, %s::name, 'usage') from pg_roles where rolname = current_user",
        [user],
    ).fetchone()
    return row is not None and bool(row[0])


def _ensure_schema(connection: psycopg.Connection[tuple[Any, ...]], schema: str, owner: str, logins: _Logins) -> None:
    """Make a schema of `owner`; one that exists, and what is in it, is handed to a login of our own."""
    from psycopg import sql

    names = {"schema": sql.Identifier(schema), "owner": sql.Identifier(owner)}
    row = connection.execute(
        "select pg_get_userbyid(nspowner) from pg_namespace where nspname = %s", [schema]
    ).fetchone()
    if row is None:
        connection.execute(sql.SQL("create schema {schema} authorization {owner}").format(**names))
        return
    if owner not in logins.separate:
        return
    if row[0] != owner:
        connection.execute(sql.SQL("alter schema {schema} owner to {owner}").format(**names))
    relations = connection.execute(
        "select relname from pg_class where relnamespace = to_regnamespace(%s)"
        " and relkind in ('r', 'p', 'v', 'm') and pg_get_userbyid(relowner) <> %s",
        [schema, owner],
    ).fetchall()
    for (relation,) in relations:
        statement = sql.SQL("alter table {schema}.{relation} owner to {owner}")
        connection.execute(statement.format(relation=sql.Identifier(relation), **names))


def _grant(connection: psycopg.Connection[tuple[Any, ...]], logins: _Logins, dbname: str, created: bool) -> None:
    """Grant each login what it needs, and nobody else anything.

    A database that was there before us may have other users: they keep their right to connect.
    """
    from psycopg import errors, sql

    database = sql.Identifier(dbname)
    for user in logins.separate:
        rights = "connect" if user in (logins.reader, logins.app) else "connect, temporary"
        connection.execute(
            sql.SQL("grant {} on database {} to {}").format(sql.SQL(rights), database, sql.Identifier(user))
        )
    if created:
        connection.execute(sql.SQL("revoke connect, temporary on database {} from public").format(database))
    try:
        with connection.transaction():
            connection.execute("revoke all on schema public from public")
    except (errors.InsufficientPrivilege, errors.InvalidSchemaName):
        log.debug("schema public isn't ours to close")
    _let_read(connection, "raw", logins.loader, logins.transformer)
    _let_read(connection, "marts", logins.transformer, logins.reader)
    writers = (logins.loader, logins.transformer, logins.app)
    if logins.reader in logins.separate and logins.reader not in writers:
        statement = sql.SQL("alter role {} in database {} set default_transaction_read_only = on")
        try:
            with connection.transaction():
                connection.execute(statement.format(sql.Identifier(logins.reader), database))
        except errors.InsufficientPrivilege:  # it has no right to write anything, anyway
            log.debug("the login %s isn't ours to change", logins.reader)


def _let_read(connection: psycopg.Connection[tuple[Any, ...]], schema: str, owner: str, reader: str) -> None:
    """Let `reader` select from all tables of a schema, those that `owner` is yet to make included."""
    from psycopg import sql

    if reader == owner:
        return
    names = {
        "schema": sql.Identifier(schema),
        "owner": sql.Identifier(owner),
        "reader": sql.Identifier(reader),
    }
    statements: tuple[sql.SQL, ...] = (
        sql.SQL("grant usage on schema {schema} to {reader}"),
        sql.SQL("grant select on all tables in schema {schema} to {reader}"),
        sql.SQL("alter default privileges for role {owner} in schema {schema} grant select on tables to {reader}"),
    )
    for statement in statements:
        connection.execute(statement.format(**names))


def _mark(connection: psycopg.Connection[tuple[Any, ...]], logins: _Logins) -> None:
    """Note what was done, for `_is_prepared`; where the schema isn't ours, each start looks again."""
    from psycopg import errors, sql

    try:
        with connection.transaction():
            connection.execute(sql.SQL("comment on schema raw is {}").format(sql.Literal(logins.marker)))
    except errors.InsufficientPrivilege:
        log.debug("schema raw isn't ours to comment on")
