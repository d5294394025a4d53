"""Kill the command anywhere, run it again: the numbers are those of an undisturbed run."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from doubles.listenbrainz import ListenBrainzDouble, listen
from helpers import checksums, query

from music_pulse import stack
from music_pulse.settings import Settings
from serving.export import BY_MONTH, WHOLE, snapshot_files

pytestmark = pytest.mark.integration

USER = "Rob"


class State(NamedTuple):
    """What a run leaves behind."""

    marts: dict[str, str]
    raw: list[tuple[Any, ...]]
    parquet: dict[str, str]


@pytest.fixture(scope="module")
def api() -> Iterator[ListenBrainzDouble]:
    """A history of two years with ties, a gap, one song with two MSIDs, and rows that must be refused."""
    chance = random.Random(11)
    now = int(time.time()) - 86_400
    seconds = [now - chance.randrange(0, 700 * 86_400) for _ in range(2_500)]
    seconds += [now - 400 * 86_400 + number // 4 for number in range(300)]
    with ListenBrainzDouble() as double:
        double.add(
            USER,
            [
                listen(second, f"Artist {second % 37}", f"Track {second % 211}", duration_ms=1_000 * (second % 300 + 1))
                for second in seconds
            ],
        )
        double.add(USER, [listen(seconds[0], "Artist X", "Twice", duration_ms=ms) for ms in (1_000, 2_000)])
        for place, artist in enumerate(("", " ", None, "nul\x00")):
            row = {
                "listened_at": now - place,
                "user_name": USER,
                "recording_msid": f"0000000{place}-0000-4000-8000-0" + "0" * 11,
            }
            double.add_raw(USER, {**row, "track_metadata": {"artist_name": artist, "track_name": "T"}})
        yield double


def command(home: Path, api: ListenBrainzDouble, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PULSE_HOME": str(home),
        "PULSE_EXPORT_DIR": str(home / "warehouse"),
        "PULSE_LISTENBRAINZ_URL": api.url,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "music_pulse.cli", *(arguments or ("run", "--user", "rob"))],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(home: Path, api: ListenBrainzDouble) -> str:
    process = command(home, api)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    return output


def state_of(home: Path) -> State:
    settings = Settings(_env_file=None, home=home)  # type: ignore[call-arg]
    with stack.warehouse(settings) as ready:
        raw = query(
            ready,
            """
            select 'listens', count(*), md5(string_agg(cast(payload_hash as text), '' order by payload_hash))
            from raw.listens
            union all
            select 'quarantine', count(*), md5(string_agg(cast(payload_hash as text), '' order by payload_hash))
            from raw.quarantine
            """,
        )
        marts = checksums(ready)
        # The time of the check is the run's own.
        marts.pop("reconciliation")
        marts["reconciled"] = repr(
            query(
                ready,
                "select user_id, reported, held, difference, landed, refused, duplicates from marts.reconciliation",
            )
        )
    return State(marts, raw, parquet_of(home / "warehouse"))


def parquet_of(location: Path) -> dict[str, str]:
    found = {}
    for table in (*BY_MONTH, *WHOLE):
        if table == "reconciliation":
            continue
        digest = hashlib.md5()
        for path in sorted(snapshot_files(location, table), key=lambda path: Path(path).parent.name):
            content = pq.ParquetFile(path).read()
            keep = [name for name in content.column_names if name != "updated_at"]
            digest.update(repr(content.select(keep).to_pylist()).encode())
        found[table] = digest.hexdigest()
    return found


@pytest.fixture(scope="module")
def undisturbed(api: ListenBrainzDouble, tmp_path_factory: pytest.TempPathFactory) -> State:
    home = tmp_path_factory.mktemp("undisturbed")
    finish(home, api)
    state = state_of(home)
    held = len(api.rows(USER))
    assert state.marts["reconciled"].startswith(f"[('Rob', {held}, {held}, 0, ")
    assert {name: count for name, count, _ in state.raw}["quarantine"] == 4
    return state


def kill_when(process: subprocess.Popen[str], text: str, delay: float, how: int) -> bool:
    """Signal the command, and no child of it, `delay` seconds after a line with `text`."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            time.sleep(delay)
            break
    if process.poll() is not None:
        return False
    process.send_signal(how)
    return True


MOMENTS = [
    ("windows to read", 0.0),  # before the first page
    ("windows to read", 0.4),  # while pages come or are landed
    ("Building and testing", 3.5),  # while dbt starts
    ("14 of", 0.3),
    ("28 of", 0.2),
    ("Writing Parquet", 0.05),
    ("Writing Parquet: ", 0.0),
]


@pytest.mark.parametrize(("text", "delay"), MOMENTS)
def test_after_kill_9_the_next_run_ends_like_an_undisturbed_one(
    text: str, delay: float, api: ListenBrainzDouble, undisturbed: State, tmp_path: Path
) -> None:
    process = command(tmp_path, api)
    kill_when(process, text, delay, signal.SIGKILL)
    process.communicate()
    finish(tmp_path, api)
    assert state_of(tmp_path) == undisturbed


@pytest.mark.parametrize(("text", "delay"), [MOMENTS[1], MOMENTS[3]])
def test_ctrl_c_is_one_line_and_the_next_run_ends_like_an_undisturbed_one(
    text: str, delay: float, api: ListenBrainzDouble, undisturbed: State, tmp_path: Path
) -> None:
    process = command(tmp_path, api)
    is_hit = kill_when(process, text, delay, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert "Traceback" not in output
    if is_hit and process.returncode:
        assert process.returncode == 130
        assert output.strip().splitlines()[-1].startswith("error: stopped; nothing is lost")
    finish(tmp_path, api)
    assert state_of(tmp_path) == undisturbed


def test_when_postgres_is_killed_the_run_ends_in_one_line_and_the_next_is_right(
    api: ListenBrainzDouble, undisturbed: State, tmp_path: Path
) -> None:
    process = command(tmp_path, api)
    assert process.stdout is not None
    for line in process.stdout:
        if "14 of" in line:
            break
    pid = int((tmp_path / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Traceback" not in output
    assert output.strip().splitlines()[-1].startswith("error: ")
    finish(tmp_path, api)
    assert state_of(tmp_path) == undisturbed


def test_two_runs_at_once_share_the_work(api: ListenBrainzDouble, undisturbed: State, tmp_path: Path) -> None:
    both = [command(tmp_path, api), command(tmp_path, api)]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert state_of(tmp_path) == undisturbed
