"""How commands end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Ctrl-C that comes while a module makes a class of a text, as dataclasses and named tuples do.
INTERRUPTED = """
import runpy
import sys

from music_pulse import stack


def warehouse(settings):
    exec("raise KeyboardInterrupt")


stack.warehouse = warehouse
module, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(module, run_name="__main__")
"""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["music_pulse.cli", "run", "--user", "rob"], "error: stopped; nothing is lost"),
        (["extract.listenbrainz", "--user", "rob"], "stopped; nothing is lost"),
    ],
)
def test_ctrl_c_in_the_middle_of_an_import_ends_with_130(arguments: list[str], says: str, tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    done = subprocess.run(
        [sys.executable, "-m", "interrupted", *arguments],
        cwd=tmp_path,
        env={"PULSE_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.startswith(says), done.stderr
    assert done.returncode == 130
