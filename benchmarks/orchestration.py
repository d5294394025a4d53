"""Airflow: how long a DAG takes to load, and a whole run of music_pulse_daily beside a plain `dbt build`.

Plain is what somebody types: it runs the unit tests, too, which the DAG leaves out, since they check code and not data.
So the same build without them stands beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.batch import _write_json_lines
from benchmarks.measure import alone, table_of
from extract.synthetic.generator import Plan
from music_pulse import airflow, transform
from music_pulse import run as steps
from music_pulse.settings import PROJECT_ROOT, Settings, load_settings
from music_pulse.stack import warehouse

USER = "bench"
TURNS = 3
DAILY_ROWS = 5_000
DAG = "music_pulse_daily"
DAGS = PROJECT_ROOT / "orchestration" / "dags"


def bench_orchestration(folder: Path, rows: int) -> str:
    """The same history built from nothing, with more, and again, by the command and by the DAG; wall-clock seconds.

    In turns, and medians of them: these machines change their speed within minutes. A ratio is one of a turn.
    """
    sys.path.append(str(PROJECT_ROOT / "tests"))
    from doubles.listenbrainz import ListenBrainzDouble, listen

    history, day = folder / "history.jsonl", folder / "day.jsonl"
    alone(_write_json_lines, history, Plan(listens=rows))
    alone(_write_json_lines, day, Plan(listens=DAILY_ROWS, seed=2))
    turns, loaded = [], []
    with ListenBrainzDouble() as api:
        api.add(USER, [listen(int(time.time()) - 86_400)])
        for _ in range(TURNS):
            with tempfile.TemporaryDirectory(dir=folder) as home:
                turn, seconds = _turn(Path(home), api.url, history, day)
            turns.append(turn)
            loaded.append(seconds)
    names = (f"from nothing, {rows:,} listens", f"{DAILY_ROWS:,} new, in all months", "nothing new")
    lines = []
    for name, *times in zip(names, *turns, strict=True):
        lines.append([name, *(f"{median(column):.0f}" for column in zip(*times, strict=True))])
        for beside in (lambda turn: turn[0], lambda turn: turn[1], lambda turn: turn[1] + turn[2]):
            ratios = sorted(turn[-1] / beside(turn) for turn in times)
            lines[-1].append(f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    verdict = (
        f"Medians of {TURNS} turns, and the least and the most. Target: 1.5 of dbt build. A run also reads the API, "
        f"exports, and looks at freshness. Loading {DAG}.py takes {median(loaded):.1f} s in a new process, Airflow's "
        "and Cosmos' imports included."
    )
    columns = ["build", "dbt build, s", "without unit tests, s", "export, s", "DAG run, s"]
    columns += ["of dbt build", "of it without unit tests", "of that and export"]
    return table_of("A DAG run beside dbt build", columns, lines, verdict)


def _turn(folder: Path, url: str, history: Path, day: Path) -> tuple[list[tuple[float, ...]], float]:
    """Return, for each state of the history, the seconds of four things, and those of loading the DAG.

    The four: `dbt build` as typed, the same without unit tests, the export after it, a run of the DAG.
    """
    with warehouse(load_settings(home=folder / "typed")) as settings:
        typed = [_typed(settings) for _ in _landed(settings, (history, day, None))]
    with warehouse(load_settings(home=folder / "plain")) as settings:
        plain = [_built(settings) for _ in _landed(settings, (history, day, None))]
    with warehouse(load_settings(home=folder / "airflow", airflow_port=0)) as settings:
        loaded = _load_seconds(settings)
        scheduled = _scheduled(settings, url, history, day)
    return [(whole, *parts, run) for whole, parts, run in zip(typed, plain, scheduled, strict=True)], loaded


def _landed(settings: Settings, paths: Sequence[Path | None]) -> Iterator[None]:
    """Land one path after the other, or nothing."""
    for path in paths:
        if path is not None:
            steps.land_files(settings, [path], None)
        yield


def _typed(settings: Settings) -> float:
    """Return the seconds of `pulse dbt build`."""
    begun = time.perf_counter()
    if transform.run_dbt(settings, ["--quiet", "build"]):
        raise RuntimeError("dbt build failed")
    return time.perf_counter() - begun


def _built(settings: Settings) -> tuple[float, float]:
    """Return the seconds of a build, and of the export after it, by the command's functions."""
    begun = time.perf_counter()
    transform.build(settings)
    built = time.perf_counter()
    steps.export(settings)
    return built - begun, time.perf_counter() - built


def _load_seconds(settings: Settings) -> float:
    variables = airflow.prepare_airflow(settings)
    path = DAGS / f"{DAG}.py"
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        subprocess.run([sys.executable, str(path)], env=variables, check=True, capture_output=True)
        times.append(time.perf_counter() - begun)
    return sorted(times)[1]


def _scheduled(settings: Settings, url: str, history: Path, day: Path) -> list[float]:
    """Land a file, let the scheduler run the DAG, which it does once when the DAG is switched on; then another."""
    os.environ |= {"PULSE_LISTENBRAINZ_URL": url, "AIRFLOW_VAR_MUSIC_PULSE_USERS": json.dumps([USER])}
    steps.land_files(settings, [history], None)
    with airflow.running(settings) as server:
        client = _Client(server.address, server.password)
        while client.ask("GET", "/api/v2/dags")["total_entries"] < len(list(DAGS.glob("*.py"))):
            time.sleep(1)
        client.ask("PATCH", f"/api/v2/dags/{DAG}", {"is_paused": False})
        times = [client.run_seconds()]
        for path in (day, None):
            if path is not None:
                steps.land_files(settings, [path], None)
            client.ask("POST", f"/api/v2/dags/{DAG}/dagRuns", {"logical_date": datetime.now(UTC).isoformat()})
            times.append(client.run_seconds())
        return times


class _Client:
    """Airflow's REST API."""

    def __init__(self, address: str, password: str) -> None:
        self._address, self._token = address, ""
        self._token = self.ask("POST", "/auth/token", {"username": airflow.LOGIN, "password": password})["access_token"]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer."""
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
        request = urllib.request.Request(self._address + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def run_seconds(self) -> float:
        """Wait for the end of the newest run, and return how long it took by Airflow's clock."""
        while True:
            time.sleep(2)
            runs = self.ask("GET", f"/api/v2/dags/{DAG}/dagRuns?order_by=-run_after&limit=1")["dag_runs"]
            if runs and runs[0]["state"] not in ("queued", "running"):
                break
        [run] = runs
        if run["state"] != "success":
            raise RuntimeError(f"the run ended as {run['state']}")
        begun, ended = (datetime.fromisoformat(run[name]) for name in ("start_date", "end_date"))
        return (ended - begun).total_seconds()
