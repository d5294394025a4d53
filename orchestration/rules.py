"""What all DAGs have in common: owner, retries, time-outs, pools, callbacks, and how a task calls our code."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert
from airflow.sdk.exceptions import AirflowFailException

from music_pulse.errors import ConfigurationError, InputError, PulseError, UnknownUserError
from music_pulse.logs import configure_logging, without_secrets
from music_pulse.settings import Settings, load_settings
from orchestration.deadlines import RunQueued
from orchestration.notifications import WebhookNotifier

START = datetime(2026, 1, 1, tzinfo=UTC)
"""From when on runs may be; nothing is caught up by itself."""

LISTENBRAINZ_POOL = "listenbrainz"
WAREHOUSE_POOL = "warehouse"
"""Pools of one slot each (pools.json)."""

_HOPELESS = (ConfigurationError, InputError, UnknownUserError)
"""What trying again doesn't mend."""


def dag_arguments(title: str, *, tags: list[str], deadline: timedelta) -> dict[str, Any]:
    """Return the arguments of a DAG: one run at a time, no catching up, an alert when a run takes too long."""
    return {
        "description": title,
        "start_date": START,
        "catchup": False,
        "max_active_runs": 1,
        "tags": ["music-pulse", *tags],
        "default_args": task_arguments(),
        "deadline": DeadlineAlert(
            reference=RunQueued(),
            interval=deadline,
            callback=AsyncCallback(WebhookNotifier, {"event": f"missed its deadline of {deadline}"}),
        ),
    }


def task_arguments() -> dict[str, Any]:
    """Return the arguments of each task."""
    return {
        "owner": "music-pulse",
        "retries": 3,
        "retry_delay": timedelta(minutes=1),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=30),
        "execution_timeout": timedelta(hours=1),
        "on_failure_callback": [WebhookNotifier("failed")],
        "on_retry_callback": [WebhookNotifier("is retried")],
    }


class TaskLog(logging.Handler):
    """Hands what we log to Airflow's log of the task, with its level: of stderr Airflow makes errors."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand on, without secrets."""
        shown = {**record.__dict__, "msg": without_secrets(record.getMessage()), "args": None}
        logging.getLogger().handle(logging.makeLogRecord(shown))


@contextmanager
def warehouse() -> Iterator[Settings]:
    """Open the warehouse for a task. What trying again doesn't mend ends the task at once."""
    from music_pulse import stack

    settings = load_settings()
    configure_logging(settings.home, settings.log_level, TaskLog())
    try:
        with stack.warehouse(settings) as filled:
            yield filled
    except PulseError as error:
        is_hopeless = isinstance(error, _HOPELESS) or isinstance(error.__cause__, _HOPELESS)
        raise (AirflowFailException if is_hopeless else RuntimeError)(str(error)) from error
