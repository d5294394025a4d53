"""
### music_pulse_backfill

Reads days of users' histories again, by `listened_at`: lands what is missing, marks what is gone there, then builds
and exports once. A task a user and month: one that failed, or a run that was stopped, goes on where it was when its
failed pieces are cleared with what follows them; what is landed is not landed again.

Parameters: `users` (default: `PULSE_LISTENBRAINZ_USER`), `from_day` and `to_day` (both included, UTC).
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Param, TriggerRule, chain, dag, task

from orchestration import steps
from orchestration.assets import MARTS, PARQUET, RAW
from orchestration.dbt_config import dbt_build
from orchestration.rules import LISTENBRAINZ_POOL, START, dag_arguments


@dag(
    schedule=None,
    doc_md=__doc__,
    params={
        "users": Param([], type="array", items={"type": "string", "minLength": 1}, description="ListenBrainz users"),
        "from_day": Param(f"{START:%Y-%m-%d}", type="string", format="date", description="First day (UTC)"),
        "to_day": Param(f"{START:%Y-%m-%d}", type="string", format="date", description="Last day (UTC)"),
    },
    **dag_arguments("Days of users' histories, again", tags=["listenbrainz", "dbt"], deadline=timedelta(hours=24)),
)
def music_pulse_backfill() -> None:
    """Read again, build, export."""
    pieces = task(steps.pieces)()
    read = task(pool=LISTENBRAINZ_POOL, outlets=[RAW])(steps.rescan).expand_kwargs(pieces)
    landed = task(pool=LISTENBRAINZ_POOL, trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)(steps.enrich)()
    exported = task(inlets=[MARTS], outlets=[PARQUET])(steps.export)()
    chain(read, landed, dbt_build(), exported)
    verdict = task(trigger_rule=TriggerRule.ONE_FAILED, retries=0, on_failure_callback=None)(steps.verdict)()
    read >> verdict


music_pulse_backfill()
