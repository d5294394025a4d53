"""Runs dbt as users type it: same project, same profile, with the warehouse's login in the environment."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from music_pulse.database import connect
from music_pulse.dbt_process import spared
from music_pulse.errors import BuildError
from music_pulse.parsed import PARSE, put, take_over
from music_pulse.settings import PROJECT_ROOT, Settings
from music_pulse.stack import environment

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
"""Called with (nodes done, nodes in all, node name)."""

_runs_here = False  # whether dbt runs in this process, not in one apart

BUILD_LOCK = 7_310_241_002
"""Key of the advisory lock that lets one dbt write at a time."""

_GC_THRESHOLDS = 50_000, 20, 100
"""Of what dbt makes nearly all stays: manifest, caches."""

_DBT = f"""
import ctypes, gc, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: no build goes on without the one who holds its lock
from music_pulse.dbt_process import compile_when_used, spared
compile_when_used()
from dbt.cli.main import cli
gc.freeze()  # what dbt imports stays
gc.set_threshold(*{_GC_THRESHOLDS})
from music_pulse.parsed import take_over
take_over()
with spared():
    cli(prog_name="pulse dbt")
"""

_NO_UNIT_TESTS = ("--exclude-resource-type", "unit_test")
"""They check the code, not the data: `make test` runs them."""

TRENDING = ("trending_recomputed", "trending+1,resource_type:test")
"""What a refresh of the trending marts selects: the live view is a view, so testing it is enough."""

_WRITING_COMMANDS = {"build", "clone", "retry", "run", "run-operation", "seed", "snapshot"}
_PROJECT_COMMANDS = {
    "build", "clean", "clone", "compile", "debug", "deps", "docs", "list", "ls", "parse", "retry", "run",
    "run-operation", "seed", "show", "snapshot", "source", "test",
}  # fmt: skip
_VARS_COMMANDS = _PROJECT_COMMANDS - {"clean", "debug", "deps"}
_LACKS_COLUMN = re.compile(r"column \S+ (of relation \S+ )?does not exist|out of sync")
_RESULTS = {
    "LogModelResult",
    "LogTestResult",
    "LogSeedResult",
    "LogNodeResult",
    "LogNodeNoOpResult",
    "SkippingDetails",
}


def dbt_environment(settings: Settings) -> dict[str, str]:
    """Return the environment that dbt runs in."""
    return {
        **os.environ,
        **environment(settings),
        "PULSE_TARGET": settings.target,
        "PULSE_DBT_THREADS": str(settings.dbt_threads),
        "DBT_TARGET_PATH": str(target_path(settings)),
        "DBT_LOG_PATH": str(settings.home / "logs" / "dbt"),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }


def target_path(settings: Settings) -> Path:
    """Return where dbt writes its manifest, its run results and its docs."""
    return settings.home / "dbt" / settings.postgres_dbname


def manifest_path(settings: Settings) -> Path:
    """Return the manifest that the DAGs are rendered from: a copy that no build is writing to."""
    return settings.home / "airflow" / "manifest.json"


def write_manifest(settings: Settings) -> Path:
    """Parse the project and put its manifest, whole, where the DAGs find it. Raises `BuildError`."""
    _run_or_raise(settings, ["parse"])
    path = manifest_path(settings)
    put((target_path(settings) / "manifest.json").read_bytes(), path)
    return path


def warm_up(settings: Settings) -> None:
    """Let this process, and those forked from it, run dbt themselves. Raises `BuildError`.

    dbt imports much, and makes more at its first parse: 4 s of the 8 that a build takes that has nothing to do.
    """
    global _runs_here  # a fact of the process
    if _run_here(settings, ["--log-level-file", "none", "parse"], lambda _: None):
        raise BuildError("dbt can't parse the project: see `pulse dbt parse`")
    _runs_here = True


def check_freshness(settings: Settings) -> None:
    """Ask when the sources last got something. Raises `BuildError` naming what is stale by `error_after`."""
    builds, own = target_path(settings), target_path(settings) / "freshness"  # it waits for no build that writes there
    if not (own / PARSE).exists() and (builds / PARSE).exists():
        put((builds / PARSE).read_bytes(), own / PARSE)  # else all is parsed anew
    _run_or_raise(settings, ["source", "freshness", "--target-path", str(own)])


def run_tests(settings: Settings, progress: Progress = lambda *_: None) -> None:
    """Ask every data test of all rows, not only of what changed. Raises `BuildError` naming what failed."""
    _run_or_raise(settings, ["test", *_NO_UNIT_TESTS], progress)


def results(settings: Settings) -> dict[str, int]:
    """Return how many nodes of the last dbt command ended how: {"pass": 312, "warn": 1}."""
    ended = json.loads((target_path(settings) / "run_results.json").read_text(encoding="utf-8"))
    return dict(Counter(str(node["status"]) for node in ended["results"]))


def done_nodes(settings: Settings, since: float) -> list[str]:
    """Return the ids of the nodes that the last dbt command left well; none if it ended before `since` (Unix time)."""
    path = target_path(settings) / "run_results.json"
    if not path.exists() or path.stat().st_mtime < since:
        return []
    ended = json.loads(path.read_text(encoding="utf-8"))
    return [node["unique_id"] for node in ended["results"] if node["status"] in ("success", "pass", "warn")]


def run_dbt(settings: Settings, arguments: Sequence[str]) -> int:
    """Pass `arguments` through to dbt, its output as it is; return its exit code."""
    command, variables = _command(settings, arguments), dbt_environment(settings)
    if not _WRITING_COMMANDS & set(arguments):
        return subprocess.run(command, env=variables, check=False).returncode
    with one_build(settings):
        return subprocess.run(command, env=variables, check=False).returncode


@contextmanager
def one_build(settings: Settings) -> Iterator[None]:
    """Wait until no other build writes to this database, then keep the others waiting."""
    with connect(settings.credentials("transformer"), autocommit=True) as connection:
        row = connection.execute("select pg_try_advisory_lock(%s)", [BUILD_LOCK]).fetchone()
        if row != (True,):
            logger.warning("another build is running: waiting for it to end")
            connection.execute("select pg_advisory_lock(%s)", [BUILD_LOCK])
        yield


def build(
    settings: Settings,
    progress: Progress = lambda *_: None,
    *,
    full_refresh: bool = False,
    select: Sequence[str] = (),
) -> None:
    """Run `dbt build`: models, seeds and tests, all or what dbt's `select` names.

    Raises `BuildError` naming what failed.
    """
    arguments = ["build", *_NO_UNIT_TESTS]
    arguments += ["--full-refresh"] if full_refresh else []
    arguments += ["--select", *select] if select else []
    with one_build(settings):
        _run_or_raise(settings, arguments, progress)


def _run_or_raise(settings: Settings, arguments: Sequence[str], progress: Progress = lambda *_: None) -> None:
    """Run dbt, follow it, and raise `BuildError` with what it says went wrong."""
    # The log file leaves out debug messages, a tenth of dbt's own time; each statement is in its target folder.
    options = ["--log-format", "json", "--log-level-file", "info"]
    failures: list[str] = []
    run = _run_here if _runs_here else _run_apart
    code = run(settings, [*options, *arguments], lambda line: _follow(line, progress, failures))
    if code:
        detail = "; ".join(failures[:3]) or f"dbt ended with exit code {code}"
        # Tables of an older version lack what the models have gained.
        advice = "after an upgrade, build anew with --full-refresh; " if _LACKS_COLUMN.search(detail) else ""
        log = settings.home / "logs" / "dbt" / "dbt.log"
        raise BuildError(f"dbt {arguments[0]} failed: {detail} ({advice}see {log})")


def _run_apart(settings: Settings, arguments: Sequence[str], follow: Callable[[str], None]) -> int:
    with subprocess.Popen(
        _command(settings, arguments),
        env=dbt_environment(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                follow(line)
        except BaseException:
            process.terminate()
            raise
    return process.returncode


def _run_here(settings: Settings, arguments: Sequence[str], follow: Callable[[str], None]) -> int:
    """Do the same in this process."""
    import gc

    from dbt.cli.main import dbtRunner
    from dbt_common.events.functions import msg_to_json

    def read(event: Any) -> None:
        if event.info.level != "debug" or event.info.name in _RESULTS:
            follow(msg_to_json(event))

    before, thresholds = dict(os.environ), gc.get_threshold()
    os.environ.update(dbt_environment(settings))
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        take_over()
        with spared(_RESULTS):
            ended = dbtRunner(callbacks=[read]).invoke(["--log-level", "none", *_arguments(settings, arguments)])
    finally:
        gc.set_threshold(*thresholds)
        os.environ.clear()
        os.environ.update(before)
    if ended.exception:  # dbt's own command would print it
        follow(json.dumps({"info": {"level": "error", "msg": str(ended.exception)}, "data": {}}))
    return int(not ended.success)


def _command(settings: Settings, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-c", _DBT, *_arguments(settings, arguments)]


def _arguments(settings: Settings, given: Sequence[str]) -> list[str]:
    """Add what leads dbt to our project."""
    arguments = list(given)
    words = [argument for argument in arguments if argument in _PROJECT_COMMANDS]
    if not words or {"-h", "--help", "--version"} & set(arguments):
        return arguments
    arguments += _missing(given, "--project-dir", str(PROJECT_ROOT / "dbt_project"))
    arguments += _missing(given, "--profiles-dir", str(PROJECT_ROOT))
    variables = dbt_vars(settings)
    if variables and words[0] in _VARS_COMMANDS:
        arguments += _missing(given, "--vars", json.dumps(variables))
    return arguments


def dbt_vars(settings: Settings) -> dict[str, Any]:
    """Return the vars that dbt_project.yml has otherwise: the rules of the trending windows, then what is set."""
    names = [f"trending_{rule}" for rule in (
        "window_minutes", "slide_minutes", "watermark_minutes", "listens_per_user", "clock_ahead_seconds"
    )]  # fmt: skip
    rules = {
        name: getattr(settings, name)
        for name in names
        if getattr(settings, name) != type(settings).model_fields[name].default
    }
    return {**rules, **settings.dbt_vars}


def _missing(arguments: Sequence[str], option: str, value: str) -> list[str]:
    given = any(argument == option or argument.startswith(option + "=") for argument in arguments)
    return [] if given else [option, value]


def _follow(line: str, progress: Progress, failures: list[str]) -> None:
    """Read one line of dbt's JSON log: progress goes on, errors are kept and shown."""
    try:
        event: dict[str, Any] = json.loads(line)
        info, data = event["info"], event["data"]
    except (ValueError, KeyError, TypeError):
        logger.info("dbt: %s", line.rstrip())
        return
    message = " ".join(str(info.get("msg", "")).split())
    total = data.get("total") or data.get("num_models")
    if info.get("name") in _RESULTS and total:
        progress(int(data.get("index") or 0), int(total), data.get("node_info", {}).get("node_name") or "")
    if info.get("level") == "error" and message:
        failures.append(message)
        logger.error("dbt: %s", message)
    elif info.get("level") == "warn" and message:
        logger.warning("dbt: %s", message)
    else:
        logger.debug("dbt: %s", message)
