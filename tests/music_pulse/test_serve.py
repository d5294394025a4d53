"""`pulse serve` and `pulse token` as a person types them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import requests
from helpers import MakeWarehouse, query

from music_pulse.errors import InputError
from music_pulse.settings import Settings
from serving import events, tokens
from serving.database import Databases

PULSE = str(Path(sys.executable).with_name("pulse"))

Pulse = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def pulse(make_warehouse: MakeWarehouse) -> Pulse:
    """Start the command on a database of its own."""
    settings = make_warehouse()
    own = {
        "PULSE_HOME": str(settings.home),
        "PULSE_POSTGRES_DBNAME": settings.postgres_dbname,
        "COLUMNS": "200",
    }

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [PULSE, *arguments],
            env={**os.environ, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def said(pulse: Pulse, *arguments: str) -> tuple[int, str, str]:
    with pulse(*arguments) as process:
        out, error = process.communicate(timeout=60)
        return process.returncode, out, error


def test_no_token_no_wide_bind_then_tokens_then_a_server_that_ends_in_order(pulse: Pulse) -> None:
    code, _, error = said(pulse, "serve", "--host", "0.0.0.0", "--port", "0")
    assert (code, error.count("\n")) == (2, 1)
    assert "pulse token create NAME" in error

    code, out, error = said(pulse, "token", "create", "Ann")
    token = out.strip()
    assert (code, len(token), token in error) == (0, 36, False)
    code, out, _ = said(pulse, "token", "list")
    assert (code, out.rstrip().endswith("  Ann"), token in out) == (0, True, False)

    with pulse("serve", "--port", "0") as server:
        try:
            assert server.stdout is not None
            address = next(word for word in server.stdout.readline().split() if word.startswith("http://")).rstrip(",")
            answer = requests.get(f"{address}/1/validate-token", {"token": token}, timeout=30).json()
            assert (answer["valid"], answer["user_name"]) == (True, "Ann")
            page = requests.get(f"{address}/api/events", stream=True, timeout=30)
            told = page.iter_lines()
            assert next(told) == b"retry: 1000"
        finally:
            server.send_signal(signal.SIGTERM)
        out, error = server.communicate(timeout=30)
        assert server.returncode == 0, error
        assert error.rstrip().endswith("stopped")
        assert error.count("\n") == 1, "an open page is no reason for an error"
        list(told)  # its stream has an end, too
    with pytest.raises(requests.ConnectionError):
        requests.get(address, timeout=5)

    assert said(pulse, "token", "revoke", "ANN")[:2] == (0, "revoked 1\n")
    code, _, error = said(pulse, "token", "revoke", "ann")
    assert (code, "'ann' has no token; pulse token list shows who has one" in error) == (2, True)


def test_a_page_that_leaves_during_a_look_at_the_database_cancels_no_statement(
    make_warehouse: MakeWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled: list[bool] = []
    looking = "select from pg_stat_activity where state = 'active' and query like 'select pg_sleep%'"

    async def cancel(*_: object, **__: object) -> None:
        cancelled.append(True)

    async def leave_and_end() -> None:
        settings = make_warehouse()
        databases = Databases(settings)
        source = events.Events(databases)
        for _ in range(2):  # a new page is told anew
            page = source.subscribe()
            assert await anext(page) == ("database", "up")
            while not query(settings, looking):
                await asyncio.sleep(0.01)
            await page.aclose()  # type: ignore[attr-defined]
        await source.ended()

    monkeypatch.setattr(psycopg.AsyncConnection, "cancel_safe", cancel)
    monkeypatch.setattr(events, "_LOOK", b"select pg_sleep(0.5)::text, 'a window'")
    asyncio.run(leave_and_end())
    assert cancelled == []


@pytest.mark.parametrize("name", ["", " \t", "two\nlines", "x" * 256, "a\0b", "\u202eright to left"])
def test_what_can_be_no_users_name_gets_no_token(name: str) -> None:
    with pytest.raises(InputError, match="in one line"):
        tokens.create_token(Settings(_env_file=None), name)  # type: ignore[call-arg]
