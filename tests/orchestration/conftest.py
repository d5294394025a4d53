"""One Airflow for the session, on the session's Postgres; each order runs in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import MakeWarehouse

from music_pulse import airflow
from music_pulse.settings import Settings

SCRIPT = Path(__file__).with_name("airflow_process.py")

Ask = Callable[..., list[Any]]
"""(settings, *orders, **environment) -> the results."""


@pytest.fixture(scope="session")
def ask(make_warehouse: MakeWarehouse, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Give orders to Airflow; the log of the process is shown where it fails."""
    folder = tmp_path_factory.mktemp("airflow")
    airflow.prepare_airflow(make_warehouse())

    def give(settings: Settings, *orders: dict[str, Any], **environment: str) -> list[Any]:
        (folder / "orders.json").write_text(json.dumps(orders), encoding="utf-8")
        (folder / "result.json").unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(folder / "orders.json"), str(folder / "result.json")],
            env={
                **airflow.airflow_environment(settings),
                "PULSE_POSTGRES_DBNAME": settings.postgres_dbname,
                "PULSE_EXPORT_DIR": settings.export_dir,
                "PULSE_LISTENBRAINZ_URL": settings.listenbrainz_url,
                **environment,
            },
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-8_000:]
        (folder / "log").write_text(done.stdout + done.stderr, encoding="utf-8")
        result: list[Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return result

    return give
