"""Connecting, and the bootstrap of a database: roles, schemas and who may do what."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from music_pulse import database
from music_pulse.embedded import postgres
from music_pulse.embedded.postgres import EmbeddedPostgres, Endpoint
from music_pulse.errors import DatabaseError
from music_pulse.settings import Role, Settings

_numbers = itertools.count()

ROLES: tuple[Role, ...] = ("admin", "loader", "transformer", "reader", "app")
MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("server")
    yield folder
    postgres.shut_down(folder)


@pytest.fixture(scope="module")
def server(home: Path) -> Endpoint:
    return EmbeddedPostgres(home).start()


@pytest.fixture
def make_settings(server: Endpoint, home: Path) -> MakeSettings:
    """Make settings for a database of its own on the shared server, with the logins `roles`."""

    def make(*roles: Role, **overrides: object) -> Settings:
        number = next(_numbers)
        values: dict[str, object] = {
            "target": "prod",
            "home": home,
            "postgres_host": server.host,
            "postgres_port": server.port,
            "postgres_user": server.user,
            "postgres_password": server.password,
            "postgres_dbname": f"pulse_{number}",
            "postgres_sslmode": "disable",
        }
        for role in ("loader", "transformer", "reader", "app"):
            values[f"postgres_{role}_user"] = f"{role}-{number}" if role in roles else None
            values[f"postgres_{role}_password"] = f"{role}'s sécret {number}" if role in roles else None
        return Settings(_env_file=None, **{**values, **overrides})  # type: ignore[arg-type,call-arg]

    return make


@pytest.fixture
def separate(make_settings: MakeSettings) -> Settings:
    """Settings of a prepared database with four logins."""
    settings = make_settings("loader", "transformer", "reader", "app")
    database.prepare(settings)
    return settings


def run(settings: Settings, role: Role, *statements: str) -> list[tuple[object, ...]]:
    """Run statements as `role` in one transaction; return the rows of the last."""
    with database.connect(settings.credentials(role)) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def test_single_login_gets_database_and_schemas(make_settings: MakeSettings) -> None:
    settings = make_settings()
    database.prepare(settings)
    schemas = run(settings, "admin", "select nspname from pg_namespace where nspname !~ '^pg_' order by 1")
    assert [name for (name,) in schemas] == [
        "app", "information_schema", "intermediate", "marts", "public", "raw", "staging",
    ]  # fmt: skip
    assert run(settings, "loader", "show server_encoding") == [("UTF8",)]
    run(settings, "transformer", "create table marts.t as select 1 as n")
    assert run(settings, "reader", "select n from marts.t") == [(1,)]


def test_schemas_belong_to_their_writers(separate: Settings) -> None:
    owners = run(
        separate,
        "admin",
        "select nspname, pg_get_userbyid(nspowner) from pg_namespace"
        " where nspname in ('raw', 'staging', 'intermediate', 'marts', 'app') order by 1",
    )
    loader, transformer = separate.credentials("loader").user, separate.credentials("transformer").user
    assert owners == [
        ("app", separate.credentials("app").user), ("intermediate", transformer), ("marts", transformer),
        ("raw", loader), ("staging", transformer),
    ]  # fmt: skip


def test_each_role_can_do_its_work(separate: Settings) -> None:
    run(separate, "loader", "create temporary table t (n int)", "create table raw.listens as select 7 as n")
    run(separate, "transformer", "create temporary table t (n int)")
    run(separate, "transformer", "create table staging.a as table raw.listens")
    run(separate, "transformer", "create view marts.v as select n from staging.a")
    assert run(separate, "reader", "select n from marts.v") == [(7,)]
    run(separate, "transformer", "drop view marts.v", "create table marts.v as select 8 as n")
    assert run(separate, "reader", "select n from marts.v") == [(8,)]


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("loader", "select * from marts.t"),
        ("loader", "create table marts.other (n int)"),
        ("loader", "drop table marts.t"),
        ("loader", "create table staging.other (n int)"),
        ("loader", "create table public.other (n int)"),
        ("loader", "create schema other"),
        ("transformer", "insert into raw.t values (2)"),
        ("transformer", "drop table raw.t"),
        ("transformer", "create table raw.other (n int)"),
        ("reader", "select * from raw.t"),
        ("reader", "select * from staging.t"),
        ("reader", "set transaction read write; insert into marts.t values (2)"),
        ("reader", "set transaction read write; create table marts.other (n int)"),
        ("reader", "set transaction read write; create temporary table other (n int)"),
        ("reader", "set transaction read write; create table public.other (n int)"),
        ("reader", "select * from app.t"),
        ("app", "select * from marts.t"),
        ("app", "select * from raw.t"),
        ("app", "create temporary table other (n int)"),
        ("app", "create table public.other (n int)"),
        ("loader", "select * from app.t"),
        ("transformer", "select * from app.t"),
    ],
)
def test_no_role_can_do_more(separate_once: Settings, role: Role, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run(separate_once, role, *statement.split("; "))


@pytest.fixture(scope="module")
def separate_once(server: Endpoint, home: Path) -> Settings:
    """Like `separate`, with a table `t` in each writer's schemas, for tests that change nothing."""
    secret = {f"postgres_{role}_password": "secret" for role in ("loader", "transformer", "reader", "app")}
    users = {f"postgres_{role}_user": f"{role}_once" for role in ("loader", "transformer", "reader", "app")}
    settings = Settings(  # type: ignore[call-arg]
        _env_file=None,
        target="prod",
        home=home,
        postgres_host=server.host,
        postgres_port=server.port,
        postgres_user=server.user,
        postgres_password=server.password,  # type: ignore[arg-type]
        postgres_dbname="pulse_once",
        **users,  # type: ignore[arg-type]
        **secret,  # type: ignore[arg-type]
    )
    database.prepare(settings)
    run(settings, "loader", "create table raw.t as select 1 as n")
    for schema in ("staging", "marts"):
        run(settings, "transformer", f"create table {schema}.t as select 1 as n")
    run(settings, "app", "create table app.t as select 1 as n")
    return settings


def test_reader_is_read_only_by_default(separate_once: Settings) -> None:
    assert run(separate_once, "reader", "show default_transaction_read_only") == [("on",)]
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        run(separate_once, "reader", "create table marts.other (n int)")


def test_one_database_is_closed_to_the_logins_of_another(separate: Settings, separate_once: Settings) -> None:
    stranger = separate_once.credentials("loader")._replace(dbname=separate.postgres_dbname)
    with pytest.raises(DatabaseError, match="permission denied"):
        database.connect(stranger)


def test_prepared_twice_is_a_cheap_no_op(separate: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("prepared again")

    monkeypatch.setattr(database, "_bootstrap", fail)
    started = time.perf_counter()
    database.prepare(separate)
    assert time.perf_counter() - started < 1  # measured: 0.02 s


def test_two_at_once(make_settings: MakeSettings) -> None:
    settings = make_settings("loader", "transformer", "reader", "app")
    failures: list[Exception] = []

    def prepare() -> None:
        try:
            database.prepare(settings)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=prepare) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_new_password_is_set(separate: Settings) -> None:
    changed = separate.model_copy(update={"postgres_reader_password": separate.postgres_password})
    with pytest.raises(DatabaseError, match="password"):
        database.connect(changed.credentials("reader"))
    database.prepare(changed)
    assert run(changed, "reader", "select 1") == [(1,)]


def test_a_schema_that_was_dropped_comes_back(separate: Settings) -> None:
    run(separate, "admin", "drop schema marts cascade")
    database.prepare(separate)
    run(separate, "transformer", "create table marts.t as select 1 as n")
    assert run(separate, "reader", "select n from marts.t") == [(1,)]


def test_from_one_login_to_four_keeps_the_data_usable(make_settings: MakeSettings) -> None:
    single = make_settings()
    database.prepare(single)
    run(single, "loader", "create table raw.listens as select 1 as n")
    run(single, "transformer", "create table marts.t as select 2 as n")
    run(single, "loader", "create view marts.v as select n from raw.listens")
    several = make_settings("loader", "transformer", "reader", "app", postgres_dbname=single.postgres_dbname)
    database.prepare(several)
    run(several, "loader", "alter table raw.listens add column m int")
    run(several, "transformer", "drop view marts.v", "select n from raw.listens")
    assert run(several, "reader", "select n from marts.t") == [(2,)]


def test_one_login_for_two_roles(make_settings: MakeSettings) -> None:
    settings = make_settings("loader", "reader")
    settings = settings.model_copy(
        update={
            "postgres_transformer_user": settings.postgres_loader_user,
            "postgres_transformer_password": settings.postgres_loader_password,
        }
    )
    database.prepare(settings)
    run(settings, "loader", "create table raw.t as select 1 as n", "create table marts.t as table raw.t")
    assert run(settings, "reader", "select n from marts.t") == [(1,)]


def test_an_administrator_who_is_no_superuser(make_settings: MakeSettings) -> None:
    superuser = make_settings()
    database.prepare(superuser)
    run(superuser, "admin", "create role dba login createdb createrole password 'dba'")
    settings = make_settings("loader", "transformer", "reader", "app", postgres_user="dba", postgres_password="dba")
    database.prepare(settings)
    database.prepare(settings)
    run(settings, "loader", "create table raw.t as select 1 as n")
    run(settings, "transformer", "create table marts.t as table raw.t")
    assert run(settings, "reader", "select n from marts.t") == [(1,)]


def test_a_login_that_may_not_create_roles(make_settings: MakeSettings) -> None:
    superuser = make_settings()
    database.prepare(superuser)
    run(superuser, "admin", "create role modest login password 'modest'")
    settings = make_settings(
        "loader",
        postgres_user="modest",
        postgres_password="modest",
        postgres_dbname=superuser.postgres_dbname,
    )
    with pytest.raises(DatabaseError, match="doesn't let modest prepare .*PULSE_POSTGRES_USER") as caught:
        database.prepare(settings)
    assert "\n" not in str(caught.value)


def test_an_existing_database_keeps_its_other_users(make_settings: MakeSettings) -> None:
    superuser = make_settings()
    settings = make_settings("loader", "transformer", "reader", "app")
    database.prepare(superuser)
    run(superuser, "admin", "create role neighbour login password 'neighbour'")
    with database.connect(superuser.credentials("admin"), autocommit=True) as connection:
        name = sql.Identifier(settings.postgres_dbname)
        connection.execute(sql.SQL("create database {}").format(name))
    database.prepare(settings)
    neighbour = settings.credentials("admin")._replace(user="neighbour", password="neighbour")
    with database.connect(neighbour) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("select * from raw.listens")


def test_a_database_in_another_encoding(make_settings: MakeSettings) -> None:
    settings = make_settings()
    admin = settings.credentials("admin")._replace(dbname="postgres")
    with database.connect(admin, autocommit=True) as connection:
        statement = sql.SQL(
            "create database {} encoding 'SQL_ASCII' locale_provider libc locale 'C' template template0"
        )
        connection.execute(statement.format(sql.Identifier(settings.postgres_dbname)))
    with pytest.raises(DatabaseError, match="isn't in UTF-8"):
        database.prepare(settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"postgres_port": 1}, "can't reach Postgres at 127.0.0.1:1: .*refused; check PULSE_POSTGRES_"),
        ({"postgres_password": "not this"}, "password authentication failed"),
        ({"postgres_sslmode": "nonsense"}, "sslmode"),
    ],
)
def test_unreachable_is_one_line(make_settings: MakeSettings, change: dict[str, object], message: str) -> None:
    settings = make_settings(**change)
    for act in (lambda: database.connect(settings.credentials("admin")), lambda: database.prepare(settings)):
        with pytest.raises(DatabaseError, match=message) as caught:
            act()
        assert "\n" not in str(caught.value)
        assert "not this" not in str(caught.value)


def test_connections_name_themselves(make_settings: MakeSettings) -> None:
    settings = make_settings()
    database.prepare(settings)
    assert run(settings, "admin", "show application_name") == [("music-pulse",)]


def test_passwords_show_nowhere(make_settings: MakeSettings, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    settings = make_settings("loader", "transformer", "reader", "app")
    admin = settings.credentials("admin")._replace(dbname="postgres")
    with database.connect(admin, autocommit=True) as connection:
        connection.execute("alter system set log_statement = 'all'")
        connection.execute("select pg_reload_conf()")
        try:
            time.sleep(0.2)
            database.prepare(settings)
        finally:
            connection.execute("alter system reset log_statement")
            connection.execute("select pg_reload_conf()")
    log = EmbeddedPostgres(home).log_path.read_text()
    assert "create role" in log
    for role in ROLES:
        login = settings.credentials(role)
        for text in (log, caplog.text, repr(login), repr(settings)):
            assert login.password not in text
            assert login.password.replace("'", "''") not in text
