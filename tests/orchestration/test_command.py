"""`pulse airflow` as a person starts and stops it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from doubles.webhook import WebhookDouble

pytestmark = pytest.mark.integration

SECONDS = 240


@pytest.fixture
def collector() -> Iterator[WebhookDouble]:
    with WebhookDouble(bytes) as double:
        yield double


def test_it_starts_prints_a_login_serves_only_this_machine_and_stops_whole(
    server_home: Path, tmp_path: Path, collector: WebhookDouble
) -> None:
    """And writes nothing but under PULSE_HOME; its metrics arrive where the environment says."""
    outside = tmp_path / "user"
    outside.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PULSE_", "XDG_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "music_pulse.cli", "airflow"],
        env={
            **kept,
            "PULSE_HOME": str(server_home),
            "PULSE_AIRFLOW_PORT": "0",
            "HOME": str(outside),
            "AIRFLOW__METRICS__OTEL_ON": "True",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        },
        cwd=outside,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        printed = read_until("Ctrl-C", process)
        address = re.search(r"http://127\.0\.0\.1:\d+", printed)
        login = re.search(r"Login +(\S+) / (\S+)", printed)
        assert address
        assert login
        assert status_of(f"{address[0]}/api/v2/dags") == 401
        token = ask(f"{address[0]}/auth/token", {"username": login[1], "password": login[2]})["access_token"]
        dags = wait_for_dags(address[0], token)
        assert {dag["dag_id"] for dag in dags} >= {"music_pulse_daily", "trending_refresh"}
        assert all(dag["is_paused"] for dag in dags)
        assert listening_elsewhere(process.pid) == []
        wait_until(lambda: any(b"airflow.scheduler_heartbeat" in body for _, body in list(collector.received)))
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert group_of(server_home) == []
    assert [str(path.relative_to(outside)) for path in outside.rglob("*")] == []


def read_until(word: str, process: subprocess.Popen[str]) -> str:
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if word in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def ask(url: str, body: dict[str, str] | None = None, token: str = "") -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None)
    request.add_header("Content-Type", "application/json")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def wait_for_dags(address: str, token: str) -> list[dict[str, Any]]:
    def dags() -> list[dict[str, Any]]:
        return list(ask(f"{address}/api/v2/dags", token=token)["dags"])

    wait_until(lambda: len(dags()) == 5)
    return dags()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def group_of(home: Path) -> list[str]:
    """Return the command lines of what of Airflow still runs for this home."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            variables = (place / "environ").read_bytes()
            line = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if f"AIRFLOW_HOME={home}".encode() in variables and "airflow" in line and "postgres -D" not in line:
            found.append(line)
    return found


def listening_elsewhere(parent: int) -> list[str]:
    """Return what the command's processes listen on besides 127.0.0.1."""
    sockets = {}
    for line in (
        Path("/proc/net/tcp").read_text().splitlines()[1:] + Path("/proc/net/tcp6").read_text().splitlines()[1:]
    ):
        fields = line.split()
        if fields[3] == "0A":
            sockets[fields[9]] = fields[1]
    mine = set()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if is_below(int(place.name), parent):
                mine |= {
                    os.readlink(found)[8:-1] for found in (place / "fd").iterdir() if "socket" in os.readlink(found)
                }
        except OSError:
            continue
    return [where for inode, where in sockets.items() if inode in mine and not where.startswith("0100007F:")]


def is_below(pid: int, parent: int) -> bool:
    while pid > 1:
        if pid == parent:
            return True
        pid = int((Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[1])
    return False
