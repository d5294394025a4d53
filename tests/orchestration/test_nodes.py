"""How a node's task ends, by what the build has noted and by how the build itself ended."""

from __future__ import annotations

import asyncio
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Airflow's own, as it is imported
    from orchestration.nodes import NodeTrigger


class Told(NodeTrigger):
    """A trigger that is told what others read from Airflow."""

    def __init__(self, status: str | None, build: str) -> None:
        super().__init__("model.music_pulse.tracks", "dbt.dbt_producer_watcher", False)
        self.status, self.build = status, build
        self.task_instance = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1)

    async def _parse_dbt_node_status_and_compiled_sql(self) -> tuple[str | None, None]:
        return self.status, None

    async def _get_producer_task_status(self) -> str:
        return self.build


def ended(status: str | None, build: str) -> str:
    async def only() -> Any:
        [event] = [event async for event in Told(status, build).run()]
        return event

    return str(asyncio.run(only()).task_instance_state.value)


@pytest.mark.parametrize(
    ("status", "build", "state"),
    [
        ("success", "success", "success"),
        ("pass", "success", "success"),
        ("success", "failed", "success"),  # it is built, whatever came after it
        ("error", "failed", "failed"),
        ("fail", "failed", "failed"),
        ("failed", "failed", "failed"),  # dbt skipped it for one before it
        (None, "success", "success"),  # nothing was to be done for it
        (None, "failed", "failed"),  # the build ended before it
        (None, "upstream_failed", "failed"),
        (None, "skipped", "failed"),
    ],
)
def test_a_node_ends_as_the_build_has_noted(status: str | None, build: str, state: str) -> None:
    assert ended(status, build) == state


def test_the_triggerer_makes_it_again_from_what_it_stores() -> None:
    trigger = NodeTrigger("model.music_pulse.tracks", "dbt.dbt_producer_watcher", True)
    path, arguments = trigger.serialize()
    assert path == "orchestration.nodes.NodeTrigger"
    assert NodeTrigger(**arguments).serialize() == (path, arguments)
