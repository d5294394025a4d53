"""
### music_pulse_daily

Everything new, every day: extract and reconcile each user, ask for metadata, build and test the marts, write Parquet,
look how fresh the sources are. One user who can't be read doesn't keep the others from the marts; the run fails in
the end all the same.

A scheduled or manual run lands all that is new, however old. A backfill (`airflow backfill create`) reads its own day
again, by `listened_at`. Any run may be repeated: nothing is landed twice.

Users: the Airflow variable `music_pulse_users` (a JSON list; `AIRFLOW_VAR_MUSIC_PULSE_USERS`), else
`PULSE_LISTENBRAINZ_USER`. What to do when a task fails: docs/runbook.md.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import CronDataIntervalTimetable, TriggerRule, chain, dag, task, task_group

from orchestration import steps
from orchestration.assets import MARTS, PARQUET, RAW
from orchestration.dbt_config import dbt_build
from orchestration.rules import LISTENBRAINZ_POOL, dag_arguments


@dag(
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    doc_md=__doc__,
    **dag_arguments("ListenBrainz to marts to Parquet", tags=["listenbrainz", "dbt"], deadline=timedelta(hours=3)),
)
def music_pulse_daily() -> None:
    """Extract, reconcile, build, export."""
    users = task(execution_timeout=timedelta(minutes=5))(steps.users)()

    @task_group
    def user(name: str) -> None:
        landed = task(pool=LISTENBRAINZ_POOL, outlets=[RAW])(steps.extract)(name)
        landed >> task(pool=LISTENBRAINZ_POOL)(steps.reconcile)(name)

    read = user.expand(name=users)
    enriched = task(pool=LISTENBRAINZ_POOL, trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)(steps.enrich)()
    exported = task(inlets=[MARTS], outlets=[PARQUET])(steps.export)()
    fresh = task(retries=1)(steps.freshness)()  # asking again makes no source fresh
    chain(read, enriched, dbt_build(), exported, fresh)
    verdict = task(trigger_rule=TriggerRule.ONE_FAILED, retries=0, on_failure_callback=None)(steps.verdict)()
    read >> verdict


music_pulse_daily()
