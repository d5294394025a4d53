"""The trending job as a process that may be killed, JVM and all, and at a named moment kills itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from music_pulse import streams
from music_pulse.embedded.java import java_home
from music_pulse.settings import PROJECT_ROOT, Settings

MOMENTS = (
    "before the commit",
    "between the commits",
    "beside the next batch",
    "before it is told",
    "between batches",
)
"""Beside the next batch: Spark has committed it, and works on the next one, before it is written."""

_JOB = """
import os, signal, sys, threading
from streaming import trending_job, trending_sink
from streaming.trending_sink import TrendingSink

moment, number = sys.argv.pop(1), int(sys.argv.pop(1))
written = []

def die(*_):
    os.killpg(0, signal.SIGKILL)

def dies(honest):
    def step(self, *arguments):
        result = honest(self, *arguments)
        written.append(result)
        if len(written) == number:
            die()
        return result
    return step

if moment == "before the commit":
    TrendingSink._merge = dies(TrendingSink._merge)
if moment == "between the commits":
    TrendingSink.write = dies(TrendingSink.write)
if "beside" in moment:
    trending_sink._FEW_LISTENS = 0
if moment == "beside the next batch":
    honest_write, honest_flush = TrendingSink.write, TrendingSink.flush
    def write(self, *arguments):
        written.append(arguments)
        if len(written) == number:
            threading.Event().wait()
        return honest_write(self, *arguments)
    def flush(self):
        if len(written) == number:
            die()
        honest_flush(self)
    TrendingSink.write, TrendingSink.flush = write, flush
if moment == "before it is told":
    trending_job.LeftOut.record = die
if moment == "between batches":
    honest = trending_job._batch_progress
    def progress(report):
        written.append(report)
        if len(written) == number:
            die()
        return honest(report)
    trending_job._batch_progress = progress
trending_job.main()
"""


class TrendingProcess:
    """One life of the job; `moment` is when it kills itself (one of `MOMENTS`), in its batch `number`."""

    def __init__(self, settings: Settings, folder: Path, moment: str = "never", number: int = 0) -> None:
        jars = streams.fetch_jars(settings, with_spark=True)
        self._log = folder / f"job-{time.time_ns()}.log"
        arguments = ["--bootstrap", str(settings.kafka_bootstrap), "--checkpoint", str(folder / "checkpoint")]
        arguments += ["--java-home", str(java_home(folder)), "--jars", os.pathsep.join(map(str, jars))]
        variables = {f"PULSE_{name.upper()}": _text(getattr(settings, name)) for name in settings.model_fields_set}
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _JOB, moment, str(number), *arguments],
                env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT), **variables},
                cwd=folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the Python process; the JVM is its child."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has said."""
        return self._log.read_text("utf-8", "replace")

    def events(self) -> int:
        """How many events its batches have held."""
        return sum(int(count) for count in re.findall(r" batch \d+: (\d+) events, ", self.log))

    def wait_killed(self) -> None:
        """Wait until it has killed itself."""
        assert self._process.wait(180) == -signal.SIGKILL, self.log[-3000:]

    def wait_until(self, done: Callable[[], bool], seconds: float = 180) -> None:
        """Wait until `done`, while it runs."""
        deadline = time.monotonic() + seconds
        while not done():
            assert self._process.poll() is None, self.log[-3000:]
            assert time.monotonic() < deadline, self.log[-3000:]
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it as an operator does."""
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(90) == 0, self.log[-3000:]

    def kill(self) -> None:
        """Kill what is left of it."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
