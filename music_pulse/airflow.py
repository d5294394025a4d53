"""`pulse airflow`: a local Airflow with our DAGs, all of it under `PULSE_HOME`; its metadata in the embedded Postgres.

Airflow is spoken to as a program, by its command line and its environment: no process of ours imports it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from music_pulse import transform
from music_pulse.database import connect
from music_pulse.display import command_name, console, step
from music_pulse.embedded.plumbing import HOST, free_port, is_free
from music_pulse.errors import AirflowError
from music_pulse.settings import PROJECT_ROOT, Settings
from music_pulse.stack import kept_secrets

logger = logging.getLogger(__name__)

DBNAME = "airflow"
"""Airflow's own database on the embedded server."""
LOGIN = "admin"
HEALTH = "/api/v2/monitor/health"
"""Where the page tells how each part is."""

_ORCHESTRATION = PROJECT_ROOT / "orchestration"
_PARTS = (
    ("api-server",),
    ("scheduler", "--skip-serve-logs"),  # their logs are read from the disk; a server of them would bind to everything
    ("dag-processor",),
    ("triggerer", "--skip-serve-logs"),
)
_START_SECONDS = 300.0  # the first start makes the database
_STOP_SECONDS = 30.0

_AIRFLOW = """
import ctypes, sys, warnings
warnings.filterwarnings("ignore", "Could not import graphviz")  # only a command that draws needs it
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG: no Airflow outlives the one who watches it
sys.argv[0] = "airflow"
if sys.argv[1:2] == ["scheduler"]:  # the tasks are forked from it
    from orchestration.preload import preload
    preload()
elif sys.argv[1:2] == ["dag-processor"]:  # and who reads the DAGs, each time, from this one
    import orchestration.dbt_config
from airflow.__main__ import main
main()
"""


def airflow_home(settings: Settings) -> Path:
    """Return the folder of Airflow's configuration, logs and password file."""
    return settings.home / "airflow"


def airflow_environment(settings: Settings, port: int | None = None) -> dict[str, str]:
    """Return the environment of Airflow and of its tasks, for a warehouse that is open; `port` is its page's.

    What the caller's environment says of Airflow (`AIRFLOW__*`) wins.
    """
    home = airflow_home(settings)
    keys = kept_secrets(home / "secrets.json", ("fernet", "api", "jwt"))
    port = settings.airflow_port if port is None else port
    root = f"http://{HOST}:{port}"
    defaults = {
        "AIRFLOW__CORE__DAGS_FOLDER": str(_ORCHESTRATION / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(_ORCHESTRATION / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": str(settings.airflow_parallelism),
        # How long it waits for something to do; a run waits after each task. Airflow's 1 s spares big databases. At 0.2
        # the scheduler takes up to a third of a core while dbt builds: each time it looks at all nodes of the run.
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{LOGIN}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(_passwords_path(settings)),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{root}/execution/",
        "AIRFLOW__CORE__FERNET_KEY": keys["fernet"] + "=",
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": root,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": keys["api"],
        "AIRFLOW__API_AUTH__JWT_SECRET": keys["jwt"],
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",  # what doesn't change need not be read every 30 s
        "AIRFLOW__DAG_PROCESSOR__STALE_BUNDLE_CLEANUP_INTERVAL": "0",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW__COSMOS__ENABLE_TELEMETRY": "False",
        "AIRFLOW__COSMOS__CACHE_DIR": str(home / "cosmos"),
        "AIRFLOW__COSMOS__DBT_DOCS_PROJECTS": json.dumps(
            {"music_pulse": {"dir": str(transform.target_path(settings)), "index": "index.html", "name": "dbt docs"}}
        ),
    }
    if settings.target == "embedded":
        login = settings.credentials("admin")
        address = f"{quote(login.user)}:{quote(login.password, safe='')}@{login.host}:{login.port}/{DBNAME}"
        defaults["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"postgresql+psycopg2://{address}"
        # The server allows 40 connections in all.
        defaults["AIRFLOW__DATABASE__SQL_ALCHEMY_POOL_SIZE"] = "3"
        defaults["AIRFLOW__DATABASE__SQL_ALCHEMY_MAX_OVERFLOW"] = "3"
    dbt = transform.dbt_environment(settings)
    # Not dbt's login alone, in place of all others: tasks prepare and vacuum, too.
    admin, transformer = settings.credentials("admin"), settings.credentials("transformer")
    dbt |= {"PULSE_POSTGRES_USER": admin.user, "PULSE_POSTGRES_PASSWORD": admin.password}
    dbt |= {
        "PULSE_POSTGRES_TRANSFORMER_USER": transformer.user,
        "PULSE_POSTGRES_TRANSFORMER_PASSWORD": transformer.password,
    }
    folders = {"AIRFLOW_HOME": str(home), "PULSE_HOME": str(settings.home), "TMPDIR": str(home / "tmp")}
    # Else it would write __pycache__ beside the DAGs and our modules.
    return {**defaults, **dbt, **folders, "PYTHONDONTWRITEBYTECODE": "1"}


def run_airflow(settings: Settings, arguments: Sequence[str]) -> int:
    """Pass `arguments` through to the command `airflow`, its output as it is; return its exit code.

    Before the first one, and before `db migrate` (after an upgrade), Airflow is prepared. Where the server isn't ours
    to keep running, the command takes the place of this process: who stops it, a container's engine, stops Airflow.
    """
    is_prepared = transform.manifest_path(settings).exists() and list(arguments[:2]) != ["db", "migrate"]
    variables = airflow_environment(settings) if is_prepared else prepare_airflow(settings)
    if settings.target != "embedded":
        os.execve(sys.executable, _command(arguments), variables)  # noqa: S606
    return subprocess.run(_command(arguments), env=variables, check=False).returncode


def serve_airflow(settings: Settings) -> None:
    """Run Airflow until Ctrl-C or SIGTERM; print the login. Raises `AirflowError` where a part ends by itself."""
    out = console()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell has started it in the background
        signal.signal(number, signal.default_int_handler)
    try:
        with running(settings) as server:
            out.print(f"Airflow  {server.address}")
            out.print(f"Login    {LOGIN} / {server.password}", highlight=False, markup=False)
            out.print(f"Logs     {server.logs}/airflow-*.log", highlight=False)
            out.print(f"Switch the DAGs on there, or with: {command_name()} airflow dags unpause music_pulse_daily")
            out.print("Ctrl-C stops it")
            while True:
                server.check()
                time.sleep(1.0)
    except KeyboardInterrupt:
        out.print("stopped")


@contextmanager
def running(settings: Settings) -> Iterator[RunningAirflow]:
    """Run scheduler, DAG processor, triggerer and page while inside; stop all they have started.

    Raises `AirflowError` where they don't start.
    """
    port = _port(settings)
    with step("Preparing Airflow"):
        variables = prepare_airflow(settings, port)
    server = _start(settings, variables)
    try:
        with step("Starting Airflow"):
            server.wait_until_ready()
        yield server
    finally:
        with step("Stopping Airflow"):
            server.stop()


@dataclass
class RunningAirflow:
    """Airflow's parts, in one process group: with their children, of which they leave some behind when they end."""

    parts: dict[str, subprocess.Popen[bytes]]
    group: int
    address: str
    password: str
    """Of `LOGIN`."""
    logs: Path

    def wait_until_ready(self) -> None:
        """Wait until every part reports that it is well."""
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_ready():
            self.check()
            if time.monotonic() > deadline:
                raise AirflowError(f"Airflow isn't ready after {_START_SECONDS:.0f} s: see {self.logs}")
            time.sleep(0.5)
        # Airflow makes the tasks' API when it is first asked, 4 s that else the first task waits.
        with suppress(OSError), urllib.request.urlopen(f"{self.address}/execution/health", timeout=60):  # noqa: S310
            pass

    def check(self) -> None:
        """Raise `AirflowError` if a part has ended."""
        for name, process in self.parts.items():
            if process.poll() is not None:
                log = self.logs / f"airflow-{name}.log"
                raise AirflowError(f"Airflow's {name} ended with exit code {process.returncode}: see {log}")

    def stop(self) -> None:
        """Ask the whole group to end, and wait; who doesn't listen is killed."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while self._signal(0) and time.monotonic() < deadline:
            for process in self.parts.values():
                process.poll()
            time.sleep(0.1)
        self._signal(signal.SIGKILL)
        for process in self.parts.values():
            process.wait()

    def _signal(self, number: int) -> bool:
        try:
            os.killpg(self.group, number)
        except ProcessLookupError:
            return False
        return True

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.address + HEALTH, timeout=5) as answer:  # noqa: S310
                health = json.load(answer)
        except (OSError, ValueError):
            return False
        parts = ("metadatabase", "scheduler", "triggerer", "dag_processor")
        return all((health.get(part) or {}).get("status") == "healthy" for part in parts)


def prepare_airflow(settings: Settings, port: int | None = None) -> dict[str, str]:
    """Make folders, database, pools and manifest; return Airflow's environment. Raises `AirflowError`."""
    home = airflow_home(settings)
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    kept_secrets(_passwords_path(settings), (LOGIN,))
    transform.write_manifest(settings)
    variables = airflow_environment(settings, port)
    if settings.target == "embedded":
        _create_database(settings)
    _run_quietly(variables, ["db", "migrate"])
    _run_quietly(variables, ["pools", "import", str(_ORCHESTRATION / "pools.json")])
    return variables


def _start(settings: Settings, variables: dict[str, str]) -> RunningAirflow:
    logs = settings.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    parts: dict[str, subprocess.Popen[bytes]] = {}
    group = 0  # the first part's own, apart from ours: Ctrl-C is for us, we stop the group
    for name, *options in _PARTS:
        with (logs / f"airflow-{name}.log").open("wb") as output:
            parts[name] = subprocess.Popen(
                _command([name, *options]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables,
                process_group=group,
            )
        group = group or parts[name].pid
    password = kept_secrets(_passwords_path(settings), (LOGIN,))[LOGIN]
    return RunningAirflow(parts, group, variables["AIRFLOW__API__BASE_URL"], password, logs)


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-c", _AIRFLOW, *arguments]


def _run_quietly(variables: dict[str, str], arguments: Sequence[str]) -> None:
    done = subprocess.run(
        _command(arguments), env=variables, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    logger.debug("airflow %s: %s", " ".join(arguments), done.stdout)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise AirflowError(f"airflow {arguments[0]} {arguments[1]} failed: {lines[-1] if lines else 'it said nothing'}")


def _create_database(settings: Settings) -> None:
    with connect(settings.credentials("admin"), autocommit=True) as connection:
        if connection.execute("select 1 from pg_database where datname = %s", [DBNAME]).fetchone() is None:
            connection.execute(f"create database {DBNAME}".encode())


def _passwords_path(settings: Settings) -> Path:
    return airflow_home(settings) / "passwords.json"


def _port(settings: Settings) -> int:
    """Return the port of the page: the one that is set, or with 0 a free one."""
    port = settings.airflow_port or free_port()
    if port is None or not is_free(port):
        raise AirflowError(f"port {port} is taken: set PULSE_AIRFLOW_PORT to another, or to 0 for a free one")
    return port
