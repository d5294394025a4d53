"""When the clock of a deadline begins to run."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from airflow.sdk.definitions.deadline import BaseDeadlineReference

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


class RunQueued(BaseDeadlineReference):
    """When the run was queued.

    As Airflow's own DAGRUN_QUEUED_AT; but with a deadline by that one, Airflow 3.3 clears no task any more
    (apache/airflow#70368). The scheduler knows this class by the plugin in `orchestration/plugins`.
    """

    required_kwargs: ClassVar = {"dag_id", "run_id"}

    def _evaluate_with(self, *, session: Session, dag_id: str, run_id: str) -> datetime | None:
        from airflow.models.dagrun import DagRun
        from sqlalchemy import select

        return session.scalar(select(DagRun.queued_at).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
