"""`pulse airflow` as a person starts it, uses it and stops it: a real scheduler, triggerer and page.

The tests are a story, in order; the last one stops it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from doubles.listenbrainz import ListenBrainzDouble, listen
from doubles.webhook import WebhookDouble
from helpers import MakeWarehouse, query

from music_pulse.settings import PROJECT_ROOT, Settings

pytestmark = pytest.mark.integration

SECONDS = 240
DAGS = 5
YESTERDAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
MONTH = YESTERDAY.replace(day=1)
SLOW = """
import time
from datetime import timedelta
from airflow.sdk import dag, task
from orchestration.rules import dag_arguments

@dag(schedule=None, **dag_arguments("Takes longer than it may", tags=[], deadline=timedelta(seconds=2)))
def slow():
    @task
    def sleep():
        time.sleep(600)

    sleep()

slow()
"""


@dataclass
class Running:
    """`pulse airflow`, started once."""

    process: subprocess.Popen[str]
    settings: Settings
    outside: Path
    """Its working directory, and the user's home."""
    dags: Path
    address: str
    login: tuple[str, str]
    api: ListenBrainzDouble
    alerts: WebhookDouble
    metrics: WebhookDouble
    token: str = ""

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Ask Airflow's API."""
        if not self.token:
            user, password = self.login
            login = {"username": user, "password": password}
            self.token = request(f"{self.address}/auth/token", login)["access_token"]
        return request(f"{self.address}/api/v2/{path}", body, self.token, method)

    def run_of(self, dag_id: str) -> dict[str, Any]:
        """Return the newest run of a DAG; its id is "" where there is none."""
        runs = self.ask(f"dags/{dag_id}/dagRuns?order_by=-run_after&limit=1")["dag_runs"]
        return dict(runs[0]) if runs else {"state": None, "dag_run_id": ""}

    def tasks_of(self, dag_id: str) -> dict[tuple[str, int], tuple[str, int]]:
        """Return state and number of the last try of each task of the newest run, by its id and map index."""
        run = self.run_of(dag_id)["dag_run_id"]
        found = self.ask(f"dags/{dag_id}/dagRuns/{run}/taskInstances?limit=500")["task_instances"]
        return {(task["task_id"], task["map_index"]): (task["state"], task["try_number"]) for task in found}

    def switch_on(self, dag_id: str) -> None:
        self.ask(f"dags/{dag_id}", {"is_paused": False}, "PATCH")

    def trigger(self, dag_id: str, **conf: Any) -> None:
        self.ask(f"dags/{dag_id}/dagRuns", {"logical_date": datetime.now(UTC).isoformat(), "conf": conf})


@pytest.fixture(scope="module")
def airflow(make_warehouse: MakeWarehouse, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    outside, dags = tmp_path_factory.mktemp("user"), tmp_path_factory.mktemp("dags")
    for path in (PROJECT_ROOT / "orchestration" / "dags").glob("*.py"):
        shutil.copy(path, dags)
    (dags / "slow.py").write_text(SLOW)
    settings = make_warehouse()
    foreign = ("AIRFLOW", "PULSE_", "XDG_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    with ExitStack() as doubles:
        api = doubles.enter_context(ListenBrainzDouble())
        alerts, metrics = doubles.enter_context(WebhookDouble()), doubles.enter_context(WebhookDouble(bytes))
        process = subprocess.Popen(
            [sys.executable, "-m", "music_pulse.cli", "airflow"],
            env={
                **kept,
                "PULSE_HOME": str(settings.home),
                "PULSE_POSTGRES_DBNAME": settings.postgres_dbname,
                "PULSE_AIRFLOW_PORT": "0",
                "PULSE_LISTENBRAINZ_URL": api.url,
                "PULSE_ALERT_WEBHOOK_URL": f"{alerts.url}/alerts",
                "HOME": str(outside),
                "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
                "AIRFLOW__LOGGING__JSON_LOGS": "True",
                "AIRFLOW__METRICS__OTEL_ON": "True",
                "OTEL_EXPORTER_OTLP_ENDPOINT": metrics.url,
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
            yield Running(process, settings, outside, dags, address[0], (login[1], login[2]), api, alerts, metrics)
        finally:
            stop(process)


def test_it_prints_a_login_and_serves_only_this_machine(airflow: Running) -> None:
    """And its metrics arrive where the environment says, and its logs are a line of JSON each."""
    assert status_of(f"{airflow.address}/api/v2/dags") == 401
    wait_until(lambda: airflow.ask("dags")["total_entries"] == DAGS + 1 or airflow.ask("importErrors")["total_entries"])
    assert airflow.ask("importErrors")["import_errors"] == []
    assert all(dag["is_paused"] for dag in airflow.ask("dags")["dags"])
    assert listening_elsewhere(airflow.process.pid) == []
    wait_until(lambda: any(b"airflow.scheduler_heartbeat" in body for _, body in list(airflow.metrics.received)))
    log = (airflow.settings.home / "logs" / "airflow-scheduler.log").read_text()
    assert any(json.loads(line)["event"] for line in log.splitlines() if line.startswith("{"))


def test_a_run_that_takes_too_long_is_told_of(airflow: Running) -> None:
    airflow.switch_on("slow")
    airflow.trigger("slow")

    def missed() -> list[Any]:
        return [
            alert for _, alert in list(airflow.alerts.received) if alert["event"] == "missed its deadline of 0:00:02"
        ]

    wait_until(lambda: bool(missed()))
    assert missed()[0]["dag_id"] == "slow"
    run = airflow.run_of("slow")
    assert run["state"] == "running"
    airflow.ask(f"dags/slow/dagRuns/{run['dag_run_id']}", {"state": "failed"}, "PATCH")


def test_a_backfill_that_failed_goes_on_where_it_was_and_what_follows_the_marts_follows(airflow: Running) -> None:
    days = [MONTH - timedelta(days=1) + timedelta(days=day) for day in range((YESTERDAY - MONTH).days + 2)]
    for user in ("ann", "bob"):
        listens = [
            listen(int(day.timestamp()) + 60 * number, f"Artist {number}") for day in days for number in range(5)
        ]
        airflow.api.add(user, listens)
    airflow.api.rename("bob", "robert")  # so there is no bob, for now
    for dag_id in ("music_pulse_backfill", "data_quality"):
        airflow.switch_on(dag_id)
    airflow.trigger(
        "music_pulse_backfill", users=["ann", "bob"], from_day=f"{days[0]:%Y-%m-%d}", to_day=f"{days[-1]:%Y-%m-%d}"
    )

    wait_until(lambda: airflow.run_of("music_pulse_backfill")["state"] == "failed")
    tasks = airflow.tasks_of("music_pulse_backfill")
    rescans = sorted(ended for (task_id, _), ended in tasks.items() if task_id == "rescan")
    assert rescans == [("failed", 1), ("failed", 1), ("success", 1), ("success", 1)]
    assert tasks["export", -1] == ("success", 1)  # ann's listens wait for nobody
    wait_until(lambda: airflow.run_of("data_quality")["state"] == "success")
    first = airflow.run_of("data_quality")["dag_run_id"]
    assert first.startswith("asset_triggered")

    airflow.api.rename("robert", "bob")
    run = airflow.run_of("music_pulse_backfill")["dag_run_id"]
    failed = [list(task) for task, (state, _) in tasks.items() if task[0] == "rescan" and state == "failed"]
    airflow.ask(
        "dags/music_pulse_backfill/clearTaskInstances",
        {"dag_run_id": run, "task_ids": failed, "include_downstream": True, "only_failed": False, "dry_run": False},
    )
    wait_until(lambda: airflow.run_of("music_pulse_backfill")["state"] == "success")
    tasks = airflow.tasks_of("music_pulse_backfill")
    rescans = sorted(ended for (task_id, _), ended in tasks.items() if task_id == "rescan")
    assert rescans == [("success", 1), ("success", 1), ("success", 2), ("success", 2)]
    landed = "select user_name, count(*), count(distinct listen_id) from raw.listens group by 1 order by 1"
    count = 5 * len(days)
    assert query(airflow.settings, landed) == [("ann", count, count), ("bob", count, count)]
    built = "select user_id, count(*) from marts.listen_events group by 1 order by 1"
    assert query(airflow.settings, built) == [("ann", count), ("bob", count)]
    wait_until(lambda: airflow.run_of("data_quality")["dag_run_id"] != first)
    wait_until(lambda: airflow.run_of("data_quality")["state"] == "success")


def test_the_page_shows_the_dbt_docs(airflow: Running) -> None:
    """`data_quality` has built them."""
    docs = f"{airflow.address}/cosmos/music_pulse"
    with urllib.request.urlopen(f"{docs}/dbt_docs_index.html", timeout=30) as page:
        assert b"dbt Docs" in page.read()
    assert "model.music_pulse.listen_events" in request(f"{docs}/catalog.json")["nodes"]
    assert "model.music_pulse.listen_events" in request(f"{docs}/manifest.json")["nodes"]


def test_ctrl_c_stops_it_whole_and_nothing_lies_outside_its_home(airflow: Running) -> None:
    """With what its tasks have written."""
    assert (airflow.settings.home / "warehouse" / "manifest.json").exists()
    stop(airflow.process)
    assert airflow.process.returncode == 0
    assert group_of(airflow.settings.home) == []
    assert [str(path.relative_to(airflow.outside)) for path in airflow.outside.rglob("*")] == []
    assert {path.suffix for path in airflow.dags.rglob("*")} == {".py"}


def stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)


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


def request(url: str, body: Any = None, token: str = "", method: str | None = None) -> Any:
    wanted = urllib.request.Request(url, json.dumps(body).encode() if body is not None else None, method=method)
    wanted.add_header("Content-Type", "application/json")
    if token:
        wanted.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(wanted, timeout=30) as answer:
        return json.load(answer)


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
