"""The warehouse of a command: embedded or named, and what dbt is told about it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from music_pulse import database, stack
from music_pulse.embedded import postgres
from music_pulse.embedded.postgres import EmbeddedPostgres
from music_pulse.errors import DatabaseError
from music_pulse.settings import Role, Settings

ROLES: tuple[Role, ...] = ("admin", "loader", "transformer", "reader")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PULSE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    yield Settings(_env_file=None, home=tmp_path / "home")  # type: ignore[call-arg]
    postgres.shut_down(tmp_path / "home")


def test_embedded_warehouse_has_three_logins(settings: Settings) -> None:
    with stack.warehouse(settings) as ready:
        users: list[object] = []
        for role in ROLES:
            with database.connect(ready.credentials(role)) as connection:
                users += connection.execute("select current_user, current_database()").fetchone() or ()
        assert users == [
            "postgres", "pulse", "pulse_loader", "pulse",
            "pulse_transformer", "pulse", "pulse_reader", "pulse",
        ]  # fmt: skip
        secrets = {ready.credentials(role).password for role in ROLES}
        assert len(secrets) == 4
        assert not [secret for secret in secrets if secret in repr(ready)]
    assert settings.postgres_user == "postgres"
    assert not EmbeddedPostgres(settings.home).is_running()


def test_passwords_are_kept_private(settings: Settings) -> None:
    with stack.warehouse(settings) as first:
        pass
    with stack.warehouse(settings) as second:
        assert second.credentials("loader").password == first.credentials("loader").password
    assert stat.S_IMODE((settings.home / "postgres" / "roles.json").stat().st_mode) == 0o600


def test_lost_role_passwords_are_replaced(settings: Settings) -> None:
    with stack.warehouse(settings):
        pass
    path = settings.home / "postgres" / "roles.json"
    path.write_text("{")
    with pytest.raises(DatabaseError, match="damaged"), stack.warehouse(settings):
        pass
    path.unlink()
    with stack.warehouse(settings) as ready, database.connect(ready.credentials("transformer")) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_whoever_comes_first_makes_the_passwords(tmp_path: Path) -> None:
    path = tmp_path / "postgres" / "roles.json"
    path.parent.mkdir()
    stack._create(path, json.dumps({"loader": "a", "transformer": "b", "reader": "c"}))
    stack._create(path, "another process's")
    assert stack.kept_secrets(path, ("loader", "transformer", "reader")) == {
        "loader": "a",
        "transformer": "b",
        "reader": "c",
    }
    assert [found.name for found in path.parent.iterdir()] == ["roles.json"]


def test_the_demo_has_a_database_of_its_own(settings: Settings) -> None:
    with stack.warehouse(settings) as real, stack.warehouse(settings.demo()) as demo:
        with database.connect(real.credentials("loader")) as connection:
            connection.execute("create table raw.t (n int)")
        with database.connect(demo.credentials("loader")) as connection:
            assert connection.execute("select current_database()").fetchone() == ("pulse_demo",)
            assert connection.execute("select to_regclass('raw.t')").fetchone() == (None,)


def test_a_server_that_the_settings_name(settings: Settings, tmp_path: Path) -> None:
    endpoint = EmbeddedPostgres(settings.home).start()
    elsewhere = Settings(  # type: ignore[call-arg]
        _env_file=None,
        home=tmp_path / "elsewhere",
        target="prod",
        postgres_host=endpoint.host,
        postgres_port=endpoint.port,
        postgres_user=endpoint.user,
        postgres_password=endpoint.password,  # type: ignore[arg-type]
        postgres_dbname="company",
    )
    with stack.warehouse(elsewhere) as ready:
        assert ready is elsewhere
        with database.connect(ready.credentials("reader")) as connection:
            row = connection.execute("select current_user, to_regnamespace('marts')::text").fetchone()
        assert row == ("postgres", "marts")
    assert not elsewhere.home.exists()
    assert EmbeddedPostgres(settings.home).is_running()


def test_dbt_gets_the_transformers_login(tmp_path: Path) -> None:
    plain = Settings(_env_file=None, home=tmp_path)  # type: ignore[call-arg]
    settings = stack.with_endpoint(plain, "127.0.0.1", 25432, "postgres", "secret")
    found = stack.environment(settings)
    assert found == {
        "PULSE_POSTGRES_HOST": "127.0.0.1",
        "PULSE_POSTGRES_PORT": "25432",
        "PULSE_POSTGRES_USER": "pulse_transformer",
        "PULSE_POSTGRES_PASSWORD": settings.credentials("transformer").password,
        "PULSE_DBT_DBNAME": "pulse",
        "PULSE_POSTGRES_SSLMODE": "disable",
    }


def test_env_file_survives_the_shell(tmp_path: Path) -> None:
    nasty = 'it\'s $HOME `id` "x" \\ ü'
    settings = Settings(  # type: ignore[call-arg]
        _env_file=None,
        home=tmp_path / "home",
        postgres_password=nasty,  # type: ignore[arg-type]
    )
    for _ in range(2):
        path = stack.write_env_file(settings)
    assert path == tmp_path / "home" / "env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    script = '. "$1"; printf %s "$PULSE_POSTGRES_PASSWORD"'
    shown = subprocess.run(["sh", "-c", script, "sh", str(path)], capture_output=True, encoding="utf-8")
    assert shown.stdout == nasty
    assert [found.name for found in path.parent.iterdir()] == ["env"]


def test_importing_is_light() -> None:
    script = "import sys, music_pulse.stack; print('psycopg' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
