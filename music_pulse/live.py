"""`pulse live`: all parts of the stream as child processes, and a table of what is trending until Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from music_pulse import streams
from music_pulse.database import connect, one_line
from music_pulse.display import cell_text
from music_pulse.errors import DatabaseError, PulseError
from music_pulse.settings import Settings

if TYPE_CHECKING:
    from rich.console import Group

    from streaming.client import KafkaConfig

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 1.0
ROWS = 10
_FRAME_LINES = 8
"""Of the table, and the figures below it."""
_STOP_SECONDS = 60.0

_TRENDING = """
select kind, rank, previous_rank, name, artist_name, listens, listeners, score, window_end
from marts.trending where rank <= %s order by kind desc, rank
"""
_LANDED = """
select
    (select coalesce(sum(listens), 0) from raw.stream_loads),
    (
        select percentile_cont(0.5) within group (
            order by extract(epoch from loads.committed_at - listens.kafka_timestamp)
        )
        from (select * from raw.stream_loads order by committed_at desc limit 5) as loads
        inner join raw.stream_listens as listens on listens.load_id = loads.load_id
    )
"""
_PART = """
import ctypes, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG: no part outlives the one who watches it
from music_pulse.cli import main
main()
"""


class StoppedPartError(PulseError):
    """A part of the stream ended by itself."""


@dataclass
class Part:
    """A child process and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise `StoppedPartError` if it has ended."""
        if self.process.poll() is not None:
            raise StoppedPartError(f"{self.name} ended with exit code {self.process.returncode}: {self._last_words()}")

    def stop(self) -> None:
        """Ask it to end, and wait; what doesn't listen is killed: each part may be, at any moment."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("%s doesn't stop: killed", self.name)
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _last_words(self) -> str:
        lines = [line for line in self.log.read_text("utf-8", "replace").splitlines() if line.strip()]
        return f"{lines[-1] if lines else 'it said nothing'} (see {self.log})"


@dataclass
class Rates:
    """Events a second in and out, from what was counted a while ago."""

    _counted: list[tuple[float, int]] = field(default_factory=list)

    def add(self, total: int, now: float) -> float:
        """Take a total, and return what came a second over the last ten, or since the last total if that is longer."""
        recent = [(at, count) for at, count in self._counted if now - at <= 10.0]
        self._counted = [*(recent or self._counted[-1:]), (now, total)]
        since, first = self._counted[0]
        return (total - first) / (now - since) if now > since else 0.0


@dataclass(frozen=True)
class View:
    """What the live table shows at one moment."""

    window_end: datetime | None
    trending: list[tuple[str, int, int | None, str, str, int, int, float]]
    per_second_in: float
    per_second_out: float
    lag: int
    latency: float | None
    """Seconds from the broker to the table, of the newest loads (the middle one)."""
    landed: int

    @property
    def line(self) -> str:
        """The same in a line."""
        top = next((f"{name} ({listeners} listeners)" for kind, _, _, name, _, _, listeners, _ in self.trending), "-")
        return f"{self._figures()}; on top: {cell_text(top)}"

    def render(self, height: int) -> Group:
        """Make a table of it, and a line of figures below, in no more than `height` lines as far as that goes."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        title = f"Now trending, window until {self.window_end:%H:%M} UTC" if self.window_end else "Now trending"
        table = Table(title=title, expand=True)
        for name, right in (
            ("kind", 0),
            ("#", 1),
            ("was", 1),
            ("name", 0),
            ("listens", 1),
            ("listeners", 1),
            ("score", 1),
        ):
            table.add_column(name, justify="right" if right else "left", no_wrap=name != "name")
        most = max(1, (height - _FRAME_LINES) // 2)
        for kind, rank, previous, name, artist, listens, listeners, score in self.trending:
            if rank > most:
                continue
            # As text: a name may hold rich's markup, or what would garble a terminal.
            shown = Text(
                cell_text(name if kind == "artist" else f"{name} - {artist}"), no_wrap=True, overflow="ellipsis"
            )
            table.add_row(
                kind, str(rank), str(previous or "new"), shown, f"{listens:,}", f"{listeners:,}", f"{score:.2f}"
            )
        if not self.trending:
            table.add_row(
                "", "", "", "no window has ended yet: the first one does a minute or so after its first listen"
            )
        return Group(table, Text(self._figures() + "  (Ctrl-C stops)"))

    def _figures(self) -> str:
        latency = "-" if self.latency is None else f"{self.latency:.1f} s"
        return (
            f"in {self.per_second_in:,.1f}/s, landed {self.per_second_out:,.1f}/s ({self.landed:,} in all), "
            f"lag {self.lag:,}, latency {latency}"
        )


def run_live(settings: Settings, simulate: float | None, seconds: float | None = None) -> None:
    """Start the parts, show what is trending, and stop all in order: on Ctrl-C, SIGTERM, or after `seconds`.

    Raises `StoppedPartError` if a part ends by itself.
    """
    from streaming.client import StreamError

    stop = streams.until_stopped()
    with ExitStack() as stack:
        _ensure_marts(settings)
        streams.fetch_jars(settings, with_spark=True)
        config = stack.enter_context(streams.broker(settings))
        parts = stack.enter_context(_parts(settings, simulate))
        began = time.monotonic()
        with _screen() as show:
            rates_in, rates_out = Rates(), Rates()
            told = ""
            while not stop.wait(REFRESH_SECONDS):
                for part in parts:
                    part.check()
                try:
                    show(_view(settings, config, rates_in, rates_out))
                    told = ""
                except (DatabaseError, StreamError) as error:
                    # The parts wait for what is restarted, or built anew by dbt, and end if it takes too long.
                    if told != str(error):
                        logger.warning("nothing to show just now: %s", error)
                    told = str(error)
                if seconds is not None and time.monotonic() - began >= seconds:
                    break
        logger.info("stopping: each part finishes what it has in hand")
    logger.info("stopped")


def _ensure_marts(settings: Settings) -> None:
    """The live table reads marts.trending: build it where it is missing."""
    with connect(settings.credentials("transformer"), autocommit=True) as connection:
        if connection.execute("select to_regclass('marts.trending')").fetchone() != (None,):
            return
    from music_pulse import run as steps

    steps.build(settings)


@contextmanager
def _parts(settings: Settings, simulate: float | None) -> Iterator[list[Part]]:
    """Run the parts; at the end the source stops first, so that what it sent is still counted and landed."""
    commands = [["sink"], ["trending", "--no-dead-letters"]]  # the sink sets aside what is malformed
    if simulate is not None:
        commands.append(["simulate", str(simulate)])
    parts: list[Part] = []
    try:
        for command in commands:
            parts.append(_start(settings, command))
        yield parts
    finally:
        for part in reversed(parts):
            part.stop()


def _start(settings: Settings, command: Sequence[str]) -> Part:
    from music_pulse.settings import DEMO_DBNAME

    log = settings.home / "logs" / f"{command[0]}.log"
    demo = ["--demo"] if settings.postgres_dbname == DEMO_DBNAME and command[0] != "simulate" else []
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _PART, "stream", *command, *demo],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PULSE_HOME": str(settings.home)},
            start_new_session=True,  # Ctrl-C is for us: we stop them in order
        )
    return Part(command[0], process, log)


@contextmanager
def _screen() -> Iterator[Callable[[View], None]]:
    """Yield what shows a view: in place on a terminal, else a log line now and then."""
    from rich.live import Live

    from music_pulse.display import console

    if not sys.stdout.isatty():
        shown = [0.0]

        def print_line(view: View) -> None:
            if time.monotonic() - shown[0] >= 10.0:
                shown[0] = time.monotonic()
                logger.info("%s", view.line)

        yield print_line
        return
    shown_on = console()
    with Live(console=shown_on, auto_refresh=False, screen=False) as live:
        yield lambda view: live.update(view.render(shown_on.height), refresh=True)


def _view(settings: Settings, config: KafkaConfig, rates_in: Rates, rates_out: Rates) -> View:
    import psycopg

    from streaming.client import measure_lag
    from streaming.sinks import sink_group

    lags = measure_lag(config, [sink_group(settings)], [settings.kafka_topic])
    now = time.monotonic()
    try:
        with connect(settings.credentials("admin"), autocommit=True) as connection:
            trending = connection.execute(_TRENDING, [ROWS]).fetchall()
            [(landed, latency)] = connection.execute(_LANDED).fetchall()
    except psycopg.Error as error:
        raise DatabaseError(f"the live table can't be read: {one_line(error)}") from error
    return View(
        window_end=trending[0][-1] if trending else None,
        trending=[row[:-1] for row in trending],
        per_second_in=rates_in.add(sum(lag.end for lag in lags), now),
        per_second_out=rates_out.add(int(landed), now),
        lag=sum(lag.events for lag in lags),
        latency=latency,
        landed=int(landed),
    )
