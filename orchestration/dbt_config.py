"""How Cosmos renders the dbt graph, and runs it: one `dbt build` in one task, watched by a task a node.

See docs/decisions/0008: what else was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from airflow.sdk import BaseOperator, TriggerRule
from cosmos import DbtTaskGroup, ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.constants import ExecutionMode, LoadMode, TestBehavior
from cosmos.operators._watcher.base import BaseConsumerSensor

from music_pulse import transform
from music_pulse.settings import PROJECT_ROOT, load_settings
from orchestration.assets import MARTS
from orchestration.nodes import Build, watch_from_triggerer
from orchestration.notifications import WebhookNotifier
from orchestration.rules import WAREHOUSE_POOL

GROUP = "dbt"
BUILD = "dbt_producer_watcher"
"""The task that runs dbt."""

_lock = ExitStack()


def dbt_build() -> BaseOperator:
    """Add the dbt project as a task group, and return its task that runs dbt and announces the marts.

    From the manifest that `pulse airflow` wrote; no database is asked. The node tasks come after the build, all at
    once, whatever became of it: each ends by what the build has noted of its node. The arrows between them are dbt's.
    What needs the marts waits for the build alone, which has run the tests, too.
    """
    settings = load_settings()
    group = DbtTaskGroup(
        group_id=GROUP,
        project_config=ProjectConfig(
            dbt_project_path=PROJECT_ROOT / "dbt_project",
            manifest_path=transform.manifest_path(settings),
            project_name="music_pulse",
            install_dbt_deps=False,
        ),
        profile_config=ProfileConfig(
            profile_name="music_pulse",
            target_name=settings.target,
            profiles_yml_filepath=PROJECT_ROOT / "profiles.yml",
        ),
        render_config=RenderConfig(
            load_method=LoadMode.DBT_MANIFEST,
            test_behavior=TestBehavior.AFTER_EACH,
            emit_datasets=False,  # their addresses hold the port; assets.py announces
            enable_owner_inheritance=False,
        ),
        execution_config=ExecutionConfig(
            execution_mode=ExecutionMode.WATCHER,
            setup_operator_args={
                "pool": WAREHOUSE_POOL,
                "pre_execute": _hold_build_lock,
                "post_execute": _release_build_lock,
                "retries": 3,
                "on_failure_callback": [_release_build_lock, WebhookNotifier("failed")],
                "on_retry_callback": [_release_build_lock, WebhookNotifier("is retried")],
                "dbt_cmd_flags": ["--exclude-resource-type", "unit_test", "--log-level-file", "info"],
            },
        ),
        operator_args={
            "vars": transform.dbt_vars(settings) or None,
            # The build is tried again, not its nodes; and one alert a failed build is enough.
            "deferrable": False,
            "retries": 0,
            "on_failure_callback": None,
            "on_retry_callback": None,
        },
    )
    build: BaseOperator = group.children[f"{GROUP}.{BUILD}"]
    build.__class__ = Build  # Cosmos has no other way to name it
    build.outlets = [MARTS]
    for node in group.iter_tasks():
        if isinstance(node, BaseConsumerSensor):
            watch_from_triggerer(node)
            build >> node
            node.trigger_rule = TriggerRule.ONE_DONE
    return build


def _hold_build_lock(_: Mapping[str, Any]) -> None:
    """Wait for builds that others run by hand, and keep them waiting."""
    from music_pulse import stack

    settings = _lock.enter_context(stack.warehouse(load_settings()))
    _lock.enter_context(transform.one_build(settings))


def _release_build_lock(*_: Any) -> None:
    """Let others build. A process that is killed lets go by that."""
    _lock.close()
