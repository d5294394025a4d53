"""The parse that a new database takes over is the one that dbt would make for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from music_pulse.settings import PROJECT_ROOT

TAKE_OVER = "from pathlib import Path; from music_pulse.parsed import take_over; take_over(Path({!r}))"
ASKED = ["parse", "--project-dir", str(PROJECT_ROOT / "dbt_project"), "--profiles-dir", str(PROJECT_ROOT)]


def parse(target: Path, database: str, port: int, shipped: Path | None = None) -> str:
    """Parse for a connection, and return what dbt says."""
    first = TAKE_OVER.format(str(shipped)) if shipped else ""
    done = subprocess.run(
        [sys.executable, "-c", f"{first}\nfrom dbt.cli.main import cli; cli()", *ASKED],
        env={
            **os.environ,
            "DBT_TARGET_PATH": str(target),
            "DBT_LOG_PATH": str(target),
            "PULSE_POSTGRES_DBNAME": database,
            "PULSE_POSTGRES_PORT": str(port),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def parsed(target: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((target / "manifest.json").read_text(encoding="utf-8"))
    del manifest["metadata"]
    for nodes in manifest.values():
        for node in nodes.values():
            if isinstance(node, dict):
                node.pop("created_at", None)
    return manifest


def test_a_new_database_takes_over_the_parse_of_another(tmp_path: Path) -> None:
    shipped, taken, anew = tmp_path / "shipped", tmp_path / "taken", tmp_path / "anew"
    parse(shipped, "pulse", 5432)
    assert "partial parsing" not in parse(taken, "other", 5433, shipped)
    assert "Starting full parse" in parse(anew, "other", 5433)
    assert parsed(taken) == parsed(anew)
    assert parsed(taken) != parsed(shipped)


def test_what_cannot_be_taken_over_is_left_to_dbt(tmp_path: Path) -> None:
    (tmp_path / "partial_parse.msgpack").write_bytes(b"no parse")
    taken = {**os.environ, "DBT_TARGET_PATH": str(tmp_path / "taken")}
    subprocess.run([sys.executable, "-c", TAKE_OVER.format(str(tmp_path))], env=taken, check=True)
    assert not (tmp_path / "taken").exists()
