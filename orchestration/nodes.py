"""The build, and the nodes of the dbt graph that tell how it went: Cosmos' WATCHER mode, with two things changed.

A build that is tried again is a whole build (Cosmos would hand over to its nodes, one dbt each): what stands is not
built twice, by the ledger of changes. And a node is looked after by the triggerer, so none starts a process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import StartTriggerArgs, TaskFailedEvent, TaskSuccessEvent, TriggerEvent
from cosmos.operators._watcher.base import BaseConsumerSensor
from cosmos.operators._watcher.state import ProducerTaskState, is_dbt_node_status_success
from cosmos.operators._watcher.triggerer import WatcherTrigger
from cosmos.operators.watcher import DbtProducerWatcherOperator


class Build(DbtProducerWatcherOperator):  # type: ignore[misc]  # Cosmos has no types
    """Runs `dbt build`, and notes of each node how it ended; on each try alike."""

    def execute(self, context: Any, **kwargs: Any) -> Any:
        """Build. Leaves out Cosmos' own `execute`: it runs nothing on a second try, and keeps copies for that."""
        self.test_results_per_model.clear()
        self._upstream_failure_skipped_ids.clear()
        return super(DbtProducerWatcherOperator, self).execute(context=context, **kwargs)


class NodeTrigger(WatcherTrigger):  # type: ignore[misc]
    """Ends a node's task by what the build, which is over, has noted of it; the build's log says why."""

    def __init__(self, model_unique_id: str, producer_task_id: str, is_test_sensor: bool) -> None:
        super().__init__(model_unique_id, producer_task_id, "", "", None, is_test_sensor=is_test_sensor)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer makes it from."""
        return f"{__name__}.NodeTrigger", _arguments(self)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look once."""
        instance = self.task_instance
        self.dag_id, self.run_id, self.map_index = instance.dag_id, instance.run_id, instance.map_index
        status, _ = await self._parse_dbt_node_status_and_compiled_sql()
        # A node that dbt had nothing to do for is not noted.
        is_built = status is None and await self._get_producer_task_status() == ProducerTaskState.SUCCESS
        yield TaskSuccessEvent() if is_built or is_dbt_node_status_success(status) else TaskFailedEvent()


def watch_from_triggerer(node: BaseConsumerSensor) -> None:
    """Let a node task of Cosmos' begin, and end, in the triggerer."""
    node.start_from_trigger = True
    node.start_trigger_args = StartTriggerArgs(
        trigger_cls=f"{__name__}.NodeTrigger", trigger_kwargs=_arguments(node), next_method="execute_complete"
    )


def _arguments(node: NodeTrigger | BaseConsumerSensor) -> dict[str, Any]:
    return {name: getattr(node, name) for name in ("model_unique_id", "producer_task_id", "is_test_sensor")}
