"""Logs: short lines on the console (stderr), JSON in a rotated file under `PULSE_HOME/logs`, one run id in both."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import uuid
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

RUN_ID_VARIABLE = "PULSE_RUN_ID"
"""Child processes (dbt, dlt's workers) inherit the run id through it."""

OUR_LOGGERS = ("music_pulse", "extract", "streaming", "serving", "orchestration")
"""What `configure_logging` sets up."""

_SECRET = re.compile(r"(://[^:/@\s]+:)[^@\s]+(@)|((?:password|token|secret)[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,}]+", re.I)


def run_id() -> str:
    """Return the id of this run; the first process of a run makes it up."""
    return os.environ.setdefault(RUN_ID_VARIABLE, uuid.uuid4().hex[:12])


def without_secrets(text: str) -> str:
    """Blank passwords and tokens in `text` (in addresses, and after password=, token=, secret=)."""
    return _SECRET.sub(lambda match: f"{match[1]}***{match[2]}" if match[1] else f"{match[3]}***", text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, run_id, message, exception."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "run_id": run_id(),
            "message": without_secrets(record.getMessage()),
        }
        if record.exc_info:
            entry["exception"] = without_secrets(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False)


class _LogFile(RotatingFileHandler):
    """Says nothing where a disk is full: that costs lines of the file, and the console has what matters."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class ConsoleFormatter(logging.Formatter):
    """`12:34:56 message`, with the level where it isn't INFO."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return f"{time} {level}{without_secrets(record.getMessage())}"


def configure_logging(home: Path, console_level: str = "INFO", console: logging.Handler | None = None) -> None:
    """Log to `console` (default: stderr) from `console_level` on, and all to `home/logs/pulse.jsonl` (5 × 10 MB).

    A folder that can't be written costs the file, not the run.
    """
    if console is None:
        console = logging.StreamHandler(sys.stderr)
        console.setFormatter(ConsoleFormatter())
    console.setLevel(console_level)
    handlers: list[logging.Handler] = [console]
    try:
        (home / "logs").mkdir(parents=True, exist_ok=True)
        file = _LogFile(home / "logs" / "pulse.jsonl", maxBytes=10_000_000, backupCount=5, encoding="utf-8", delay=True)
        file.setFormatter(JsonFormatter())
        handlers.append(file)
    except OSError as error:
        logging.getLogger(__name__).warning("no log file: %s", error)
    for name in OUR_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = list(handlers)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
