"""How Cosmos renders the dbt graph, and what runs it: one `dbt build` in one task, and a task a node that shows it.

See docs/decisions/0008: what else was measured.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, BaseOperator, TaskGroup, TriggerRule, get_parsing_context
from airflow.sdk.bases.skipmixin import XCOM_SKIPMIXIN_FOLLOWED, XCOM_SKIPMIXIN_KEY, XCOM_SKIPMIXIN_SKIPPED
from cosmos import DbtTaskGroup, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.constants import DbtResourceType, LoadMode, TestBehavior
from cosmos.dbt.graph import DbtNode

from music_pulse import transform
from music_pulse.errors import PulseError
from music_pulse.settings import PROJECT_ROOT, load_settings
from orchestration.assets import MARTS
from orchestration.rules import WAREHOUSE_POOL, warehouse

logger = logging.getLogger(__name__)

GROUP = "dbt"

_NODES = (DbtResourceType.MODEL, DbtResourceType.SEED, DbtResourceType.SNAPSHOT, DbtResourceType.TEST)


class Node(EmptyOperator):
    """Shows how the build, whatever became of it, has left dbt nodes. The scheduler ends it: no process starts."""

    def __init__(self, *, unique_id: str, **kwargs: Any) -> None:
        super().__init__(trigger_rule=TriggerRule.ONE_DONE, **kwargs)
        self.unique_id = unique_id
        self.unique_ids = {unique_id}


class Build(BaseOperator):
    """Runs dbt as everybody does. Where it fails, the nodes that aren't done are skipped; its error names the cause.

    However it ends: what a node shows is written before dbt starts, for a process that is killed.
    """

    inherits_from_skipmixin = True

    def execute(self, context: Mapping[str, Any]) -> None:
        """Build, and test."""
        begun = time.time()
        others = sorted(task.task_id for task in self.downstream_list if not isinstance(task, Node))
        context["ti"].xcom_push(XCOM_SKIPMIXIN_KEY, {XCOM_SKIPMIXIN_FOLLOWED: others})
        with warehouse() as settings:
            try:
                transform.build(settings, lambda done, total, name: logger.info("%d of %d: %s", done, total, name))
            except PulseError:
                done = set(transform.done_nodes(settings, begun))
                with DAG(self.dag_id):
                    undone = [node.task_id for node in _nodes(_graph()) if not node.unique_ids <= done]
                context["ti"].xcom_push(XCOM_SKIPMIXIN_KEY, {XCOM_SKIPMIXIN_SKIPPED: undone})
                raise
        context["ti"].xcom_push(XCOM_SKIPMIXIN_KEY, {XCOM_SKIPMIXIN_SKIPPED: []})


def dbt_build() -> BaseOperator:
    """Add the dbt project as a task group, and return its task that runs dbt and announces the marts.

    From the manifest that `pulse airflow` wrote; no database is asked. The node tasks come after the build, all at
    once, whatever became of it. The arrows between them are dbt's. What needs the marts waits for the build alone,
    which has run the tests, too. A process that runs one task leaves the nodes out: none of them is run.
    """
    group = TaskGroup(GROUP) if get_parsing_context().task_id else _graph()
    nodes = _nodes(group)
    with group:
        build = Build(task_id="build", pool=WAREHOUSE_POOL, outlets=[MARTS])
    build >> nodes
    return build


def _nodes(group: TaskGroup) -> list[Node]:
    return [task for task in group.iter_tasks() if isinstance(task, Node)]


def _graph() -> DbtTaskGroup:
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
            enable_owner_inheritance=False,
            node_converters=dict.fromkeys(_NODES, _node),
            node_conversion_by_task_group=False,
        ),
    )
    for node in _nodes(group):
        if node.task_id.endswith(".test"):  # that of all tests of its model
            node.unique_ids = set(group.dbt_graph.tests_per_model[node.unique_id])
    return group


def _node(*, dag: DAG, task_group: TaskGroup, task_id: str, node: DbtNode, **_: Any) -> Node:
    return Node(unique_id=node.unique_id, dag=dag, task_group=task_group, task_id=task_id)
