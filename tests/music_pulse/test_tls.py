"""A managed Postgres, reached as the runbook says: `verify-full`, with the provider's CA in PGSSLROOTCERT."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from doubles.tls import TlsEnd
from helpers import SAMPLE, query
from sqlalchemy.ext.asyncio import create_async_engine

from music_pulse import database, run, stack, transform
from music_pulse.embedded import broker_security
from music_pulse.embedded.broker_security import BrokerSecurity
from music_pulse.errors import DatabaseError
from music_pulse.settings import Settings

NAME, OTHER_NAME = "localhost", "127.0.0.1"
"""The certificate holds the first one only."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broker_security, "HOST", "127.0.0.9")
        for name in ("ours", "others"):
            BrokerSecurity(folder / name).set_up()
    return folder


@pytest.fixture(scope="module")
def managed(module_warehouse: Settings, certificates: Path) -> Iterator[Settings]:
    """Settings of somebody whose Postgres is elsewhere."""
    with TlsEnd(certificates / "ours" / "server.pem", module_warehouse.postgres_port) as end:
        yield module_warehouse.model_copy(
            update={
                "target": "prod",
                "postgres_host": NAME,
                "postgres_port": end.port,
                "postgres_sslmode": "verify-full",
            }
        )


def test_with_the_right_ca_all_drivers_get_in(
    managed: Settings, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """psycopg, ADBC and dbt's psycopg2."""
    monkeypatch.setenv("PGSSLROOTCERT", str(certificates / "ours" / "ca.pem"))
    with stack.warehouse(managed) as settings:
        with database.connect(settings.credentials("admin")) as connection:
            assert connection.pgconn.ssl_in_use
        run.land_files(settings, [SAMPLE], None)
        assert query(settings, "select count(*) > 0 from raw.listens") == [(True,)]
        assert transform.run_dbt(settings, ["debug", "--connection"]) == 0


def airflows_answers(settings: Settings, ca: Path) -> list[int]:
    """Ask by the two addresses that the runbook gives to Airflow."""
    login = settings.credentials("admin")
    place = f"{login.user}:{login.password}@{NAME}:{login.port}/{login.dbname}"
    engine = sqlalchemy.create_engine(f"postgresql+psycopg2://{place}?sslmode=verify-full&sslrootcert={ca}")
    with engine.connect() as connection:
        answers = [connection.scalar(sqlalchemy.text("select 1"))]
    engine.dispose()

    async def ask() -> int:
        engine = create_async_engine(f"postgresql+asyncpg://{place}?ssl=verify-full")
        try:
            async with engine.connect() as connection:
                return int(await connection.scalar(sqlalchemy.text("select 2")))
        finally:
            await engine.dispose()

    return [*answers, asyncio.run(ask())]


def test_airflows_two_drivers_get_in_by_the_runbooks_addresses(
    managed: Settings, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, others = (certificates / name / "ca.pem" for name in ("ours", "others"))
    monkeypatch.setenv("PGSSLROOTCERT", str(ours))
    assert airflows_answers(managed, ours) == [1, 2]
    with pytest.raises(sqlalchemy.exc.OperationalError, match="certificate verify failed"):
        airflows_answers(managed, others)
    monkeypatch.setenv("PGSSLROOTCERT", str(others))
    with pytest.raises(ssl.SSLCertVerificationError):
        airflows_answers(managed, ours)


@pytest.mark.parametrize(
    ("ca", "host", "message"),
    [
        ("others/ca.pem", NAME, "certificate verify failed"),
        ("ours/ca.pem", OTHER_NAME, "does not match host name"),
        ("missing.pem", NAME, "root certificate file .* does not exist"),
    ],
)
def test_who_can_not_be_trusted_is_refused_in_one_line(
    managed: Settings, certificates: Path, monkeypatch: pytest.MonkeyPatch, ca: str, host: str, message: str
) -> None:
    monkeypatch.setenv("PGSSLROOTCERT", str(certificates / ca))
    settings = managed.model_copy(update={"postgres_host": host})
    with pytest.raises(DatabaseError, match=message) as caught, stack.warehouse(settings):
        pass
    assert "\n" not in str(caught.value)
