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
Seconds = list[tuple[float, ...]]
"""One or more for each state of the history."""
DAGS = PROJECT_ROOT / "orchestration" / "dags"


def bench_orchestration(folder: Path, rows: int) -> str:
    """The same history built from nothing, with more, and again, by the command and by the DAG; wall-clock seconds.

    In turns, and medians of them: these machines change their speed within minutes. A ratio is that of two times of one
    turn.
    """
    sys.path.append(str(PROJECT_ROOT / "tests"))
    from doubles.listenbrainz import ListenBrainzDouble, listen

    history, day = folder / "history.jsonl", folder / "day.jsonl"
    alone(_write_json_lines, history, Plan(listens=rows))
    alone(_write_json_lines, day, Plan(listens=DAILY_ROWS, seed=2))
    ways = [_typed, _built, _scheduled]
    turns = []
    with ListenBrainzDouble() as api:
        api.add(USER, [listen(int(time.time()) - 86_400)])
        for number in range(TURNS):
            found = {}
            for way in (ways * 2)[number : number + len(ways)]:  # each is once the first, the second, and the last
                with tempfile.TemporaryDirectory(dir=folder) as home:
                    settings = load_settings(home=Path(home), airflow_port=0, listenbrainz_url=api.url)
                    with warehouse(settings) as filled:
                        found[way] = way(filled, (history, day, None))
            turns.append([sum(parts, ()) for parts in zip(*(found[way] for way in ways), strict=True)])
    with warehouse(load_settings(home=folder / "loaded")) as settings:
        loaded = _load_seconds(settings)
    names = (f"from nothing, {rows:,} listens", f"{DAILY_ROWS:,} new, in all months", "nothing new")
    lines = []
    for name, *times in zip(names, *turns, strict=True):
        lines.append([name, *(f"{median(column):.0f}" for column in zip(*times, strict=True))])
        for beside in (lambda turn: turn[0], lambda turn: turn[1], lambda turn: turn[1] + turn[2]):
            ratios = sorted(turn[-1] / beside(turn) for turn in times)
            lines[-1].append(f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    verdict = (
        f"Medians of {TURNS} turns; in brackets the least and the greatest. Target: 1.5 of dbt build. A run also reads "
        f"the API, exports, and looks at freshness; it is timed by Airflow, from start to end. Loading {DAG}.py takes "
        f"{loaded:.1f} s in a new process, Airflow's and Cosmos' imports included."
    )
    columns = ["build", "dbt build, s", "without unit tests, s", "export, s", "DAG run, s"]
    columns += ["of dbt build", "of it without unit tests", "of that and export"]
    return table_of("A DAG run beside dbt build", columns, lines, verdict)


def _landed(settings: Settings, paths: Sequence[Path | None]) -> Iterator[None]:
    """Land one path after the other, or nothing."""
    for path in paths:
        if path is not None:
            steps.land_files(settings, [path], None)
        yield


def _typed(settings: Settings, paths: Sequence[Path | None]) -> Seconds:
    """Return those of `pulse dbt build`, after each path."""
    found: Seconds = []
    for _ in _landed(settings, paths):
        begun = time.perf_counter()
        if transform.run_dbt(settings, ["--quiet", "build"]):
            raise RuntimeError("dbt build failed")
        found.append((time.perf_counter() - begun,))
    return found


def _built(settings: Settings, paths: Sequence[Path | None]) -> Seconds:
    """Return those of a build without unit tests, and of the export after it, by the command's functions."""
    found: Seconds = []
    for _ in _landed(settings, paths):
        begun = time.perf_counter()
        transform.build(settings)
        built = time.perf_counter()
        steps.export(settings)
        found.append((built - begun, time.perf_counter() - built))
    return found


def _load_seconds(settings: Settings) -> float:
    variables = airflow.prepare_airflow(settings)
    path = DAGS / f"{DAG}.py"
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        subprocess.run([sys.executable, str(path)], env=variables, check=True, capture_output=True)
        times.append(time.perf_counter() - begun)
    return median(times)


def _scheduled(settings: Settings, paths: Sequence[Path | None]) -> Seconds:
    """Return those of the DAG by the scheduler, which runs it once when it is switched on; then by hand."""
    os.environ |= {"PULSE_LISTENBRAINZ_URL": settings.listenbrainz_url}
    os.environ |= {"AIRFLOW_VAR_MUSIC_PULSE_USERS": json.dumps([USER])}
    found: Seconds = []
    landed = _landed(settings, paths)
    next(landed)
    with airflow.running(settings) as server:
        client = _Client(server.address, server.password)
        while client.ask("GET", "/api/v2/dags")["total_entries"] < len(list(DAGS.glob("*.py"))):
            time.sleep(1)
        client.ask("PATCH", f"/api/v2/dags/{DAG}", {"is_paused": False})
        found.append((client.run_seconds(),))
        for _ in landed:
            client.ask("POST", f"/api/v2/dags/{DAG}/dagRuns", {"logical_date": datetime.now(UTC).isoformat()})
            found.append((client.run_seconds(),))
    return found


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
