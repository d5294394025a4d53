"""CPU time of client and server together, and peak memory, of a block of code; and how it is shown."""

from __future__ import annotations

import multiprocessing
import os
import resource
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Cost:
    """What a block cost: CPU-seconds of this process with its children and of the server, seconds, peak MiB."""

    client: float = 0.0
    server: float = 0.0
    wall: float = 0.0
    peak_mib: float = 0.0

    @property
    def cpu(self) -> float:
        """Client and server together."""
        return self.client + self.server


@contextmanager
def measured(home: Path) -> Iterator[Cost]:
    """Fill a `Cost`; the server is the embedded one of `home`."""
    cost = Cost()
    watch = _PeakWatch(home)
    client, server, wall = _client_cpu(), _server_cpu(home), time.perf_counter()
    with watch:
        yield cost
    cost.client = _client_cpu() - client - watch.cpu
    cost.server = _server_cpu(home) - server
    cost.wall = time.perf_counter() - wall
    cost.peak_mib = watch.peak / 2**20


def _client_cpu() -> float:
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


def _postmaster(home: Path) -> int:
    return int((home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])


def _server_cpu(home: Path) -> float:
    """Sum over the postmaster, its living backends and (in its own figures) those that have ended."""
    postmaster = _postmaster(home)
    ticks = 0
    for pid, parent, values in _processes():
        if postmaster in (pid, parent):
            ticks += sum(int(value) for value in values[11:15])
    return ticks / _TICKS


def _processes() -> Iterator[tuple[int, int, list[str]]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            values = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        yield int(folder.name), int(values[1]), values


class _PeakWatch:
    """Samples the memory of this process, its children and the server (proportional set size: shared pages once).

    The system walks all pages for it, 1 to 2 s of CPU a minute; `cpu` is how much, in seconds.
    """

    def __init__(self, home: Path) -> None:
        self.peak = 0
        self.cpu = 0.0
        self._home = home
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.5):
            self.peak = max(self.peak, sum(_pss(pid) for pid in self._family()))
            self.cpu = time.thread_time()

    def _family(self) -> set[int]:
        family = {os.getpid(), _postmaster(self._home)}
        parents = {pid: parent for pid, parent, _ in _processes()}
        grown = True
        while grown:
            more = {pid for pid, parent in parents.items() if parent in family} - family
            family |= more
            grown = bool(more)
        return family


def _pss(pid: int) -> int:
    try:
        for line in (Path("/proc") / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def alone(function: Callable[..., T], *arguments: object) -> T:
    """Call in a process of its own, so that nothing which ran before is measured with it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def table_of(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], verdict: str) -> str:
    """Return a section of the README: title, table, verdict."""
    lines = [f"## {title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", verdict, ""])
