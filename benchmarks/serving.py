"""The server on loopback: submissions and reads a second, and how long they take, over the marts of a large history.

Each client is a thread of a process of its own with one connection, and asks again as soon as it has its answer. Reads
name another user and another page each time; what the server keeps of one version of the marts is part of it.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

from benchmarks.batch import _write_json_lines
from benchmarks.measure import alone, table_of
from extract.synthetic.generator import Plan
from music_pulse import run as steps
from music_pulse.database import connect
from music_pulse.serve import create_token
from music_pulse.settings import Settings, load_settings
from music_pulse.stack import warehouse

READERS = 4
WRITERS = 16
_SECONDS = 15.0

Ask = Callable[[random.Random], tuple[str, str, bytes | None]]
"""Makes a request: method, path and body."""


@dataclass(frozen=True)
class Load:
    """What came of asking for a while; times in milliseconds."""

    per_second: float
    median: float
    p95: float
    worst: float


def bench_serving(folder: Path, rows: int) -> str:
    """Reads of each kind, single listens and imports of 100."""
    path = folder / "listens.jsonl"
    alone(_write_json_lines, path, Plan(listens=rows))
    settings = load_settings(home=folder / "home", serve_rate_limit=1_000_000_000)
    with warehouse(settings) as filled:
        steps.land_files(filled, [path], None)
        steps.build(filled)
        users, newest = _held(filled)
        token = create_token(filled, "bench")
        with _served(filled) as port:
            found = {
                name: (clients, alone(load, port, token, name, clients, users, newest))
                for name, clients in [*((name, READERS) for name in READS), *((name, WRITERS) for name in WRITES)]
            }
    lines = [
        [name, str(clients), f"{of.per_second:,.0f}", f"{of.median:.1f}", f"{of.p95:.1f}", f"{of.worst:.1f}"]
        for name, (clients, of) in found.items()
    ]
    slowest = max(of.p95 for name, (_, of) in found.items() if name in READS)
    verdict = f"The slowest kind of read: {slowest:.1f} ms at p95 (target: under 100). Submissions without a broker."
    columns = ["request", "clients", "a second", "p50 ms", "p95 ms", "longest ms"]
    return table_of(f"The server over marts of {rows:,} listens", columns, lines, verdict)


def _held(settings: Settings) -> tuple[list[str], int]:
    with connect(settings.credentials("reader")) as connection:
        rows = connection.execute("select user_id from marts.reconciliation where user_id <> '' order by 1").fetchall()
        newest = connection.execute("select extract(epoch from max(played_at_ts))::bigint from marts.listen_events")
        [(second,)] = newest.fetchall()
    return [name for (name,) in rows], int(second)


@contextmanager
def _served(settings: Settings) -> Iterator[int]:
    """Run `pulse serve` as a person does; yield its port."""
    program = str(Path(sys.executable).with_name("pulse"))
    own = {"PULSE_HOME": str(settings.home), "PULSE_SERVE_RATE_LIMIT": str(settings.serve_rate_limit)}
    command = [program, "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **own}, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            yield int(said.split("127.0.0.1:")[1].split(",")[0])
        finally:
            process.terminate()


def load(port: int, token: str, name: str, clients: int, users: list[str], newest: int) -> Load:
    """Ask by so many clients at once, after a moment that isn't counted."""
    ask = {**READS, **WRITES}[name](users, newest)
    times: list[float] = []
    began = time.perf_counter() + 1.0
    ends = began + _SECONDS
    lock = threading.Lock()

    def client(number: int) -> None:
        dice = random.Random(number)
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        own = []
        while (start := time.perf_counter()) < ends:
            method, path, body = ask(dice)
            connection.request(method, path, body, {"Authorization": f"Token {token}"})
            with connection.getresponse() as response:
                response.read()
                assert response.status in (200, 204), f"{path}: {response.status}"
            if start >= began:
                own.append(time.perf_counter() - start)
        with lock:
            times.extend(own)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    times.sort()
    at = [1000 * times[int(share * (len(times) - 1))] for share in (0.5, 0.95, 1.0)]
    return Load(len(times) / _SECONDS, *at)


def _pages(users: list[str], newest: int) -> Ask:
    def ask(dice: random.Random) -> tuple[str, str, bytes | None]:
        second = newest - dice.randrange(3 * 365 * 86_400)
        return "GET", f"/1/user/{quote(dice.choice(users))}/listens?count=100&max_ts={second}", None

    return ask


def _of(*paths: str) -> Callable[[list[str], int], Ask]:
    def make(users: list[str], newest: int) -> Ask:
        def ask(dice: random.Random) -> tuple[str, str, bytes | None]:
            return "GET", dice.choice(paths).format(user=quote(dice.choice(users))), None

        return ask

    return make


def _submissions(listens: int) -> Callable[[list[str], int], Ask]:
    def make(users: list[str], newest: int) -> Ask:
        def ask(dice: random.Random) -> tuple[str, str, bytes | None]:
            payload = [
                {
                    "listened_at": dice.randrange(1_100_000_000, newest),
                    "track_metadata": {"artist_name": f"Artist {dice.random()}", "track_name": "Track"},
                }
                for _ in range(listens)
            ]
            kind = "single" if listens == 1 else "import"
            return "POST", "/1/submit-listens", json.dumps({"listen_type": kind, "payload": payload}).encode()

        return ask

    return make


READS: dict[str, Callable[[list[str], int], Ask]] = {
    "a page of 100 listens": _pages,
    "a user's top lists": _of(
        "/1/stats/user/{user}/artists?range=year",
        "/1/stats/user/{user}/recordings?range=month",
        "/1/stats/user/{user}/recordings?range=all_time",
        "/1/stats/user/{user}/releases?range=year",
    ),
    "everybody's top lists": _of("/1/stats/sitewide/artists", "/1/stats/sitewide/recordings?range=year"),
    "the page's overview and tops": _of(
        "/api/overview?user={user}&range=year",
        "/api/top/tracks?user={user}&range=month",
        "/api/top/artists?range=all",
        "/api/clock?user={user}&range=year",
    ),
}
WRITES: dict[str, Callable[[list[str], int], Ask]] = {
    "submit one listen": _submissions(1),
    "submit 100 listens": _submissions(100),
}
