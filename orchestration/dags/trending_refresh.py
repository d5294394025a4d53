"""
### trending_refresh

Every 5 minutes: counts the trending windows of what the stream landed anew, and tests them and the live view
`marts.trending`. It waits for its turn in the pool `warehouse`, so it never races a build; while the marts don't stand
it is skipped.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, dag, task

from orchestration import steps
from orchestration.rules import WAREHOUSE_POOL, dag_arguments


@dag(
    schedule=CronTriggerTimetable("*/5 * * * *", timezone="UTC"),
    doc_md=__doc__,
    **dag_arguments("Trending marts, live", tags=["streaming", "dbt"], deadline=timedelta(minutes=30)),
)
def trending_refresh() -> None:
    """Refresh and test."""
    # The next one comes in 5 minutes anyhow.
    task(pool=WAREHOUSE_POOL, retries=1, retry_delay=timedelta(seconds=20))(steps.refresh_trending)()


trending_refresh()
