"""What a run shows: progress bars on a terminal, log lines elsewhere, and the tables at its end."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

logger = logging.getLogger(__name__)

Report = Callable[..., None]
"""`report(done, total, text)`; a total of None shows a count without an end."""

_LOG_STEPS = 4


def console() -> Console:
    """Return a console on stdout, wide enough that tables aren't folded where no terminal is."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 1_000)


def command_name() -> str:
    """Return how to type this command: `pulse` where the shell finds it, else the way it was typed."""
    typed = sys.argv[0]
    return typed if Path(typed).name == "pulse" and shutil.which("pulse") is None else "pulse"


@contextmanager
def step(name: str) -> Iterator[Report]:
    """Show one long step; yields what to report progress to."""
    if not sys.stderr.isatty():
        logger.info("%s", name)
        yield _log_report(name)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as bars:
        task = bars.add_task(name, total=None, text="")

        def report(done: int, total: int | None = None, text: str = "") -> None:
            bars.update(task, completed=done, total=total, text=text)

        yield report


def _log_report(name: str) -> Report:
    last = 0

    def report(done: int, total: int | None = None, text: str = "") -> None:
        nonlocal last
        part = done * _LOG_STEPS // total if total else done // 250_000
        if part > last:
            last = part
            logger.info("%s: %s%s%s", name, f"{done:,}", f" of {total:,}" if total else "", f" {text}" if text else "")

    return report


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Any:
    """Make a rich table; numbers are right-aligned and grouped, None is blank."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    rows = [list(row) for row in rows]
    for index, column in enumerate(columns):
        is_number = all(isinstance(row[index], (int, float)) or row[index] is None for row in rows)
        made.add_column(column, justify="right" if is_number and rows else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell_text(value)) for value in row))
    return made


def cell_text(value: Any) -> str:
    """Write a value for a person; control characters, which could garble a terminal, show as `·`."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return "".join(char if char.isprintable() or char == " " else "·" for char in str(value))
