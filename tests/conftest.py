"""One Postgres for the whole session; each test or module takes a database of its own on it."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from helpers import MakeWarehouse

from music_pulse import stack
from music_pulse.embedded import postgres
from music_pulse.logs import OUR_LOGGERS
from music_pulse.settings import Settings

_numbers = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def _no_outer_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        _forget_settings(patch)
        yield


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    _forget_settings(monkeypatch)


def _forget_settings(patch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("PULSE_"):
            patch.delenv(name)


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """A command that runs in the test's process sets our loggers up for itself; the next test's stay untouched."""
    loggers = [logging.getLogger(name) for name in OUR_LOGGERS]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (logger.handlers, level, logger.propagate) in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def server_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a server that runs as long as the session does; each worker has its own."""
    home = tmp_path_factory.mktemp("home")
    with postgres.running(home) as server:
        with psycopg.connect(
            host=server.host, port=server.port, user=server.user, password=server.password, autocommit=True
        ) as connection:
            for name in ("fsync", "full_page_writes"):  # for a machine that crashes: this data doesn't outlive the run
                connection.execute(f"alter system set {name} = off")
            connection.execute("select pg_reload_conf()")
        yield home
    postgres.shut_down(home)


@pytest.fixture(scope="session")
def make_warehouse(server_home: Path) -> Iterator[MakeWarehouse]:
    """Make settings that lead to a fresh, prepared database; `overrides` are settings."""
    with ExitStack() as open_warehouses:

        def make(**overrides: object) -> Settings:
            values = {"home": server_home, "postgres_dbname": f"pulse_{next(_numbers)}", **overrides}
            settings = Settings(_env_file=None, **values)  # type: ignore[arg-type,call-arg]
            return open_warehouses.enter_context(stack.warehouse(settings))

        yield make


@pytest.fixture
def warehouse(make_warehouse: MakeWarehouse) -> Settings:
    """A fresh database for one test."""
    return make_warehouse()


@pytest.fixture(scope="module")
def module_warehouse(make_warehouse: MakeWarehouse) -> Settings:
    """A fresh database that the tests of a module share."""
    return make_warehouse()


_SLOWEST = {"test_trending_interruptions.py", "test_interruptions.py", "test_incremental.py"}
"""Minutes each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow files, the slowest first, so that no worker is left alone with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("integration")}
    items.sort(key=lambda item: (item.path.name not in _SLOWEST, item.path not in slow))
