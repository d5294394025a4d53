"""
### data_quality

After each build of the marts: how fresh the sources are, whether as much is held as ListenBrainz reports, days with
far fewer or more listens than usual, and every dbt test over all rows (a build tests only what changed), summed up.
Each check fails, and alerts, by itself. Last the dbt docs are built anew for the page (Browse → dbt docs).
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import TriggerRule, dag, task

from orchestration import steps
from orchestration.assets import MARTS
from orchestration.rules import WAREHOUSE_POOL, dag_arguments


@dag(
    schedule=[MARTS],
    doc_md=__doc__,
    **dag_arguments("Is what was built right?", tags=["quality", "dbt"], deadline=timedelta(hours=2)),
)
def data_quality() -> None:
    """Check, then document."""
    # A finding doesn't go away by asking again; an unreachable database may.
    checks = [
        task(retries=1)(steps.freshness)(),
        task(retries=1)(steps.reconciliation)(),
        task(retries=1)(steps.row_counts)(),
        task(retries=1, pool=WAREHOUSE_POOL)(steps.all_tests)(),
    ]
    checks >> task(pool=WAREHOUSE_POOL, trigger_rule=TriggerRule.ALL_DONE)(steps.docs)()


data_quality()
