"""Prepares a process from which tasks are forked: the scheduler of `pulse airflow`, whose LocalExecutor forks each.

A task so begins with all imported, 5 s, and with dbt warm, 4 s. Elsewhere a task imports what it needs, and runs dbt in
a process apart.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from importlib import import_module

from music_pulse import stack, transform
from music_pulse.errors import PulseError
from music_pulse.settings import load_settings

logger = logging.getLogger(__name__)

_MODULES = (
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "airflow.dag_processing.bundles.local",
    "airflow.dag_processing.dagbag",
    "orchestration.dbt_config",
    "orchestration.steps",
    "dbt.cli.main",
    "dbt.adapters.postgres",
    "dbt.task.build",
    "dbt.task.freshness",
    "dlt.destinations.impl.postgres.postgres",
    "dlt.sources.helpers.requests",
    "extract.listenbrainz.metadata",
    "extract.listenbrainz.reconcile",
    "extract.pipeline",
    "serving.export",
    "adbc_driver_postgresql.dbapi",
    "music_pulse.forget",
    "music_pulse.maintenance",
    "music_pulse.quality",
    "music_pulse.run",
    "music_pulse.embedded.postgres",
    "streaming.tables",
)


def preload() -> None:
    """Import it all, read certificates, let dbt parse the project once. Leaves no connection and no thread behind."""
    for name in _MODULES:
        import_module(name)
    from airflow.sdk.api.client import Client

    with suppress(OSError, ValueError):  # the tasks will say so
        Client(base_url="http://localhost/", token="").close()  # its class keeps the certificates that it has read
    try:
        with stack.warehouse(load_settings()) as settings:
            transform.warm_up(settings)
    except PulseError as error:  # the tasks will say so, too
        logger.warning("dbt isn't warm: %s", error)
