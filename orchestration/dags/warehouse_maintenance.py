"""
### warehouse_maintenance

Weekly housekeeping: blanks the text of records refused 90 days ago, drops trending windows of 30 days ago that stand
in Parquet, removes what interrupted exports left, and vacuums and analyzes every table. It takes its turn in the pool
`warehouse`. Airflow's own history: `airflow db clean` (docs/runbook.md).
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, chain, dag, task

from orchestration import steps
from orchestration.rules import WAREHOUSE_POOL, dag_arguments

QUARANTINE_DAYS = 90
WINDOW_DAYS = 30


@dag(
    schedule=CronTriggerTimetable("30 2 * * 0", timezone="UTC"),
    doc_md=__doc__,
    **dag_arguments("Vacuum and retention", tags=["maintenance"], deadline=timedelta(hours=2)),
)
def warehouse_maintenance() -> None:
    """Let go what is old, then vacuum."""
    chain(
        task(pool=WAREHOUSE_POOL)(steps.shorten_quarantine)(QUARANTINE_DAYS),
        task(pool=WAREHOUSE_POOL)(steps.drop_old_windows)(WINDOW_DAYS),
        task(pool=WAREHOUSE_POOL)(steps.drop_old_snapshots)(),
        task(pool=WAREHOUSE_POOL)(steps.vacuum)(),
    )


warehouse_maintenance()
