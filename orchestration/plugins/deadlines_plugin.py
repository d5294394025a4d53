"""Tells Airflow of our deadlines' reference. Its folder is the deployment's plugins folder, or copied into it."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from orchestration.deadlines import RunQueued


class DeadlinesPlugin(AirflowPlugin):
    """Our own reference of deadlines."""

    name = "music_pulse_deadlines"
    deadline_references = [RunQueued]
