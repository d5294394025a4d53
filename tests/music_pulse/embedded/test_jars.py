"""The jars: downloaded once, whole or not at all, and never anything but what the lock names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from music_pulse.embedded import jars
from music_pulse.embedded.jars import KAFKA_COORDINATES, LOCK_PATH, SPARK_COORDINATES, locked, path_of, resolve
from music_pulse.errors import DownloadError

ROOT = Path(__file__).resolve().parents[3]
POOL = "org.apache.commons:commons-pool2:2.12.1"
AVRO = "org.apache.spark:spark-avro_2.13:4.1.1"
SMALL = ("two", "small", "jars")

RESOLVE = f"""
import sys
from pathlib import Path
from music_pulse.embedded import jars
known = jars.locked(jars.SPARK_COORDINATES)
jars._lock = lambda: {{"small": {{name: known[name] for name in ("{POOL}", "{AVRO}")}}}}
jars.resolve(["small"], Path(sys.argv[1]), lambda done, total, name: print(name))
"""


@pytest.fixture(autouse=True)
def _two_small_jars(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = dict(jars._lock())
    known = locked(SPARK_COORDINATES)
    lock[" ".join(SMALL)] = {POOL: known[POOL], AVRO: known[AVRO]}
    monkeypatch.setattr(jars, "_lock", lambda: lock)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_the_lock_names_every_jar_by_hash_and_no_address() -> None:
    kafka, spark = locked(KAFKA_COORDINATES), locked(SPARK_COORDINATES)
    assert set(KAFKA_COORDINATES) < kafka.keys()
    assert set(SPARK_COORDINATES) == spark.keys()
    assert {len(checksum) for checksum in (*kafka.values(), *spark.values())} == {64}
    assert "//" not in LOCK_PATH.read_text()


def test_coordinates_that_are_not_locked_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"jars\.lock doesn't know a:b:1; run"):
        resolve(["a:b:1"], tmp_path)


def test_a_first_start_tells_its_progress_and_a_second_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    heard: list[tuple[int, int, str]] = []
    found = resolve(SMALL, tmp_path / "jars", lambda *step: heard.append(step))
    assert [path.name for path in found] == ["commons-pool2-2.12.1.jar", "spark-avro_2.13-4.1.1.jar"]
    assert [step[:2] for step in heard] == [(1, 2), (2, 2)]
    assert {step[2] for step in heard} == {path.name for path in found}
    request.getfixturevalue("no_network")
    assert resolve(SMALL, tmp_path / "jars", lambda *step: heard.append(step)) == found
    assert len(heard) == 2


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "empty"])
def test_a_damaged_cache_is_mended_and_the_rest_left_alone(tmp_path: Path, damage: str) -> None:
    pool, avro = resolve(SMALL, tmp_path)
    whole, untouched = pool.read_bytes(), avro.stat().st_mtime_ns
    match damage:
        case "cut":
            pool.write_bytes(whole[:5000])
        case "changed":
            pool.write_bytes(whole[:5000] + b"!" + whole[5001:])
        case "missing":
            pool.unlink()
        case "empty":
            pool.write_bytes(b"")
    assert resolve(SMALL, tmp_path) == [pool, avro]
    assert pool.read_bytes() == whole
    assert avro.stat().st_mtime_ns == untouched


def test_what_a_killed_download_left_is_cleared_away(tmp_path: Path) -> None:
    partial = tmp_path / "partial" / path_of(POOL)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"half a jar")
    resolve(SMALL, tmp_path)
    assert not (tmp_path / "partial").exists()


@pytest.mark.usefixtures("no_network")
def test_without_a_network_one_line_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        resolve(SMALL, tmp_path)
    message = str(caught.value)
    assert "no connection; check the network" in message
    assert "PULSE_JAR_CACHE" in message
    assert "\n" not in message


def test_another_file_than_the_locked_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jars, "_lock", lambda: {"pool": {POOL: "0" * 64}})
    with pytest.raises(DownloadError, match="something between here and the repository changed it"):
        resolve(["pool"], tmp_path)
    assert not (tmp_path / path_of(POOL)).exists()


def test_a_jar_that_nobody_has_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = "org.apache.commons:commons-pool2:0.0.0"
    monkeypatch.setattr(jars, "_lock", lambda: {"unknown": {unknown: "0" * 64}})
    with pytest.raises(DownloadError, match=f"can't download {unknown}: the repository doesn't have it"):
        resolve(["unknown"], tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="can't keep jars in .*file.*; set PULSE_JAR_CACHE"):
        resolve(SMALL, tmp_path / "file" / "jars")


def test_two_processes_share_one_download(tmp_path: Path) -> None:
    commands = [
        subprocess.Popen([sys.executable, "-c", RESOLVE, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(2)
    ]
    said = [command.communicate(timeout=60)[0].split() for command in commands]
    assert [command.returncode for command in commands] == [0, 0]
    assert sorted(said[0] + said[1]) == ["commons-pool2-2.12.1.jar", "spark-avro_2.13-4.1.1.jar"]
