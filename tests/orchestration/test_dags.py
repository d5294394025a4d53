"""The DAGs as the DAG processor loads them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from helpers import MakeWarehouse

from music_pulse.settings import PROJECT_ROOT

BUILD = "dbt.build"
DAGS = {"music_pulse_daily", "music_pulse_backfill", "trending_refresh", "warehouse_maintenance", "data_quality"}


@pytest.fixture(scope="module")
def bag(ask: Any, make_warehouse: MakeWarehouse) -> dict[str, Any]:
    [described] = ask(make_warehouse(), {"describe": []})
    return dict(described)


@pytest.fixture(scope="module")
def daily(bag: dict[str, Any]) -> dict[str, Any]:
    return dict(bag["dags"]["music_pulse_daily"]["tasks"])


def test_every_dag_loads_is_acyclic_and_can_be_stored(bag: dict[str, Any]) -> None:
    assert bag["errors"] == {}
    assert set(bag["dags"]) == DAGS


def test_reading_the_dags_imports_nothing_heavy(bag: dict[str, Any]) -> None:
    assert bag["heavy"] == []


def test_every_dag_says_what_it_is_and_runs_once_at_a_time(bag: dict[str, Any]) -> None:
    for dag_id, dag in bag["dags"].items():
        assert dag["doc_md"].strip().startswith(f"### {dag_id}")
        assert "music-pulse" in dag["tags"]
        assert (dag["max_active_runs"], dag["catchup"], dag["deadlines"]) == (1, False, 1)


def test_dags_start_when_the_docs_say(bag: dict[str, Any]) -> None:
    assert {dag_id: dag["schedule"] for dag_id, dag in bag["dags"].items() if dag_id != "data_quality"} == {
        "music_pulse_daily": "0 0 * * *",
        "music_pulse_backfill": "None",
        "trending_refresh": "*/5 * * * *",
        "warehouse_maintenance": "30 2 * * 0",
    }


def test_no_file_is_one_that_dbt_would_import(bag: dict[str, Any]) -> None:
    assert not [path for path in (PROJECT_ROOT / "orchestration").rglob("dbt_*.py") if path.parent.name == "dags"]
    assert {dag["file"] for dag in bag["dags"].values()} == {f"{dag_id}.py" for dag_id in DAGS}


def test_every_task_has_an_owner_a_time_out_and_retries(bag: dict[str, Any]) -> None:
    for dag in bag["dags"].values():
        for name, task in dag["tasks"].items():
            if name == "verdict":  # it tells how others ended
                continue
            assert task["owner"] == "music-pulse", name
            assert task["timeout"], name
            assert task["retries"] >= 1, name
            assert task["is_backed_off"], name


def test_every_task_tells_of_its_failures_but_for_the_one_that_sums_up(bag: dict[str, Any]) -> None:
    for dag in bag["dags"].values():
        assert {name for name, task in dag["tasks"].items() if not task["tells_of_failure"]} <= {"verdict"}
        assert all(task["tells_of_retry"] for task in dag["tasks"].values())


def test_the_runbook_has_a_row_for_every_task(bag: dict[str, Any]) -> None:
    runbook = (PROJECT_ROOT / "docs" / "runbook.md").read_text()
    rows = "".join(line.split("|")[1] for line in runbook.splitlines() if line.startswith("| `"))
    told = set(re.findall(r"`([\w.]+)`", rows))
    tasks = {name for dag in bag["dags"].values() for name in dag["tasks"]}
    nodes = {name for name in tasks if name.startswith("dbt.") and name != BUILD}
    assert nodes
    assert tasks - nodes <= told
    assert "dbt.NODE.run" in told


def test_the_daily_run_reads_then_builds_then_exports(daily: dict[str, Any]) -> None:
    assert daily["user.extract"]["upstream"] == ["users"]
    assert daily["user.reconcile"]["upstream"] == ["user.extract", "users"]
    assert daily["enrich"]["upstream"] == ["user.reconcile"]
    assert daily[BUILD]["upstream"] == ["enrich"]
    assert daily["export"]["upstream"] == [BUILD]
    assert daily["freshness"]["upstream"] == ["export"]
    assert daily["verdict"]["trigger_rule"] == "one_failed"
    assert daily["verdict"]["upstream"] == ["user.reconcile"]


def test_each_user_is_read_by_tasks_of_their_own(daily: dict[str, Any]) -> None:
    assert {name for name, task in daily.items() if task["is_mapped"]} == {"user.extract", "user.reconcile"}


def test_the_dbt_graph_is_rendered_with_its_tests(daily: dict[str, Any]) -> None:
    """Staging, intermediate, marts; a model comes after the tests of what it reads."""
    assert "dbt.stg_batch__loads.test" in daily["dbt.int_listens_deduplicated.run"]["upstream"]
    assert "dbt.int_listens_deduplicated.test" in daily["dbt.listen_events.run"]["upstream"]
    assert daily["dbt.listen_events.test"]["upstream"] == [BUILD, "dbt.listen_events.run"]
    assert daily["dbt.listen_events.test"]["trigger_rule"] == "one_done"


def test_pools_of_one_keep_apart_who_must_not_meet(bag: dict[str, Any], daily: dict[str, Any]) -> None:
    tasks = {f"{dag_id}.{name}": task for dag_id, dag in bag["dags"].items() for name, task in dag["tasks"].items()}
    builders = {name for name, task in tasks.items() if task["pool"] == "warehouse"}
    assert builders == {
        "music_pulse_daily.dbt.build",
        "music_pulse_backfill.dbt.build",
        "trending_refresh.refresh_trending",
        "data_quality.all_tests",
        "data_quality.docs",
        "warehouse_maintenance.shorten_quarantine",
        "warehouse_maintenance.drop_old_windows",
        "warehouse_maintenance.drop_old_snapshots",
        "warehouse_maintenance.vacuum",
    }
    pools = json.loads((PROJECT_ROOT / "orchestration" / "pools.json").read_text())
    assert {name: pool["slots"] for name, pool in pools.items()} == {"listenbrainz": 1, "warehouse": 1}
    askers = {name for name, task in daily.items() if task["pool"] == "listenbrainz"}
    assert askers == {"user.extract", "user.reconcile", "enrich"}


def test_the_build_announces_the_marts_and_what_follows_listens(bag: dict[str, Any], daily: dict[str, Any]) -> None:
    assert daily[BUILD]["outlets"] == ["marts"]
    assert daily["export"]["outlets"] == ["parquet_snapshot"]
    assert "marts" in bag["dags"]["data_quality"]["schedule"]


def test_a_backfill_takes_users_and_days(bag: dict[str, Any]) -> None:
    assert bag["dags"]["music_pulse_backfill"]["params"] == ["from_day", "to_day", "users"]
