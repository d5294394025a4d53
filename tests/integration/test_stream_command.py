"""The live half through its commands: all parts at once, one by one, and what dbt makes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from helpers import SAMPLE, query, sample_lines
from liblistenbrainz import Listen, ListenBrainz

from music_pulse.identity import listen_id
from music_pulse.serve import create_token
from music_pulse.settings import PROJECT_ROOT, Settings
from music_pulse.stack import warehouse

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

PULSE = str(Path(sys.executable).with_name("pulse"))

Pulse = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A home of its own; the jars are shared with other tests."""
    home = tmp_path_factory.mktemp("live")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PULSE_")}
    return {
        **clean,
        "PULSE_HOME": str(home),
        "PULSE_JAR_CACHE": str(PROJECT_ROOT / ".cache" / "jars"),
        "PULSE_ARCHIVE_DIR": str(home / "stream"),
        "PULSE_EXPORT_DIR": str(home / "warehouse"),
    }


@pytest.fixture(scope="module")
def pulse(environment: dict[str, str]) -> Iterator[Pulse]:
    """Run the command as a person would."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([PULSE, *arguments], env=environment, capture_output=True, text=True, timeout=600)

    yield run
    run("down")


@pytest.fixture(scope="module")
def lived(environment: dict[str, str]) -> dict[str, Any]:
    """Live for some minutes, with a server beside it to which people send a track; return what it says of that."""
    command = [PULSE, "live", "--simulate", "40", "--seconds", "75"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as live:
        assert live.stderr is not None
        told = [next(line for line in live.stderr if " landed " in line and "(0 in all)" not in line)]
        found = _sent_to_a_server(environment)
        told += live.stderr.read().splitlines()
    assert live.returncode == 0, told
    assert told[-1].endswith("stopped")
    return found


def _sent_to_a_server(environment: dict[str, str]) -> dict[str, Any]:
    """Submit a track by a client library for a dozen people, and wait until the server shows that it is trending."""
    settings = Settings(_env_file=None, home=Path(environment["PULSE_HOME"])).demo()  # type: ignore[call-arg]
    command = [PULSE, "serve", "--demo", "--port", "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = next(word for word in server.stdout.readline().split() if word.startswith("http://")).rstrip(",")
            with warehouse(settings) as filled:
                tokens = [create_token(filled, f"person {number}") for number in range(12)]
            for token in tokens:
                client = ListenBrainz(address)
                client.set_auth_token(token)
                client.submit_single_listen(
                    Listen(track_name="Sent by a client", artist_name="Somebody", listened_at=int(time.time()) - 70)
                )
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                items = requests.get(f"{address}/api/trending?limit=100", timeout=30).json()["items"]
                for item in items:
                    if item["name"] == "Sent by a client":
                        return dict(item)
                time.sleep(0.5)
            return {}
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def demo(lived: dict[str, Any], environment: dict[str, str], pulse: Pulse) -> Iterator[Settings]:
    """The demo's database, after some live minutes."""
    settings = Settings(_env_file=None, home=Path(environment["PULSE_HOME"])).demo()  # type: ignore[call-arg]
    with warehouse(settings) as filled:
        yield filled


def test_what_a_scrobbler_sends_is_trending_within_the_minute(lived: dict[str, Any]) -> None:
    """Through the server, Kafka, Spark and Postgres."""
    assert lived, "it was not shown"
    assert (lived["listens"], lived["listeners"]) == (12, 12)


def test_live_lands_every_event_and_counts_windows(demo: Settings) -> None:
    [(listens, refused, events)] = query(demo, "select sum(listens), sum(refused), sum(events) from raw.stream_loads")
    assert listens > 0
    assert (refused, query(demo, "select count(*) from raw.stream_listens")) == (0, [(listens,)])
    [(sent,)] = query(demo, "select sum(next_offset) from raw.stream_offsets")
    assert sent >= events
    [(windows, counted)] = query(demo, "select count(*), sum(listen_count) from raw.trending_windows")
    assert windows > 0
    assert counted > 0
    assert query(demo, "select count(*) from raw.trending_left_out where reason = 'clock ahead'") != [(0,)]


def test_the_parts_are_gone_afterwards(demo: Settings) -> None:
    """No process of ours holds a file of the home but the Postgres that this test uses."""
    left = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode("utf-8", "replace")
            variables = (folder / "environ").read_bytes().decode("utf-8", "replace")
        except OSError:
            continue
        if f"PULSE_HOME={demo.home}" in variables and "postgres" not in words:
            left.append(words)
    assert left == []


def test_dbt_unites_the_stream_and_finds_that_it_agrees(demo: Settings, pulse: Pulse) -> None:
    built = pulse("dbt", "--demo", "build", "--exclude-resource-type", "unit_test")
    assert built.returncode == 0, built.stdout
    streamed = query(demo, "select count(*) from marts.listen_events where source = 'stream'")
    assert streamed == query(demo, "select count(*) from raw.stream_listens")
    asked = pulse("query", "--demo", "select count(*) as rows from marts.trending_recomputed", "--format", "json")
    assert json.loads(asked.stdout)[0]["rows"] > 0


def test_a_replayed_history_is_landed_once_however_often(
    demo: Settings, pulse: Pulse, environment: dict[str, str]
) -> None:
    listens = [json.loads(line) for line in sample_lines()]
    names = [(listen["track_metadata"]["artist_name"], listen["track_metadata"]["track_name"]) for listen in listens]
    expected = {
        listen_id(listen["user_name"], listen["listened_at"], *name)
        for listen, name in zip(listens, names, strict=True)
    }
    for _ in range(2):
        sent = pulse("stream", "replay", str(SAMPLE), "--speed", "1e12", "--demo")
        assert sent.returncode == 0, sent.stderr
        assert "0 lines are no listens" in sent.stdout
    sink = subprocess.Popen(
        [PULSE, "stream", "sink", "--demo", "--metrics-port", "0"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert sink.stderr is not None
    address = ""
    for line in sink.stderr:
        if "metrics on " in line:
            address = line.split("metrics on ")[1].strip()
            break
    _until(lambda: "pulse_kafka_lag{" in _read(address) and _lag(_read(address)) == 0)
    assert "pulse_kafka_consumed_total" in _read(address)
    sink.send_signal(signal.SIGTERM)
    sink.stderr.read()
    assert sink.wait(60) == 0
    landed = query(
        demo,
        "select listen_id from raw.stream_listens"
        " where user_name not like 'synthetic%' and user_name not like 'person %'",
    )
    assert {row[0] for row in landed} == expected
    assert len(landed) == len(expected)
    assert pulse("extract", "synthetic", "--listens", "500").returncode == 0
    again = pulse("stream", "replay", "--speed", "1e12", "--demo", "--user", "synthetic_1")
    assert again.returncode == 0, again.stderr
    [(rows,)] = query(demo, "select count(distinct listen_id) from raw.listens where user_name = 'synthetic_1'")
    assert f"sent {rows:,} events, 0 lines" in again.stdout
    nobody = pulse("stream", "replay", "--demo", "--user", "nobody")
    assert (nobody.returncode, "nothing is landed of nobody" in nobody.stderr) == (2, True)
    shown = pulse("stream", "status", "--demo")
    assert shown.returncode == 0, shown.stderr
    assert f"{demo.kafka_topic}.sink" in shown.stdout
    assert "listens landed" in shown.stdout


def test_bad_arguments_end_in_one_line(pulse: Pulse, tmp_path: Path) -> None:
    for arguments, text in (
        (("stream", "replay", str(tmp_path / "none.jsonl"), "--demo"), "none.jsonl: can't be read"),
        (("live", "--simulate", "0"), "0"),
    ):
        done = pulse(*arguments)
        assert done.returncode == 2
        assert text in done.stderr
        assert "Traceback" not in done.stderr


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def _read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return str(answer.read().decode())


def _lag(text: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("pulse_kafka_lag{"))
