"""Airflow in a process of its own: `python airflow_process.py ORDERS RESULT`, both JSON files.

An order is {"describe": []}, {"run": dag_id, "date": ..., "skip": pattern, "conf": {...}, "retries": 1},
{"backfill": dag_id, "from": ..., "to": ...}, or {"tell": url, "body": ...}: who waits there may then
change the world before the next one. Runs go through Airflow's own `DAG.test`, without delays
between tries, and where dbt runs in a process that has imported what the local Airflow's have, and so runs it itself.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from orchestration.preload import preload

HEAVY = {"adbc_driver_postgresql", "dbt", "dlt", "kafka", "numpy", "pandas", "psycopg", "pyarrow", "pyspark"}
HEAVY |= {"extract", "serving", "streaming"}
"""What a file that Airflow reads again and again must not import."""


def describe() -> dict[str, Any]:
    """Load all DAGs as the DAG processor does, and tell what the tests look at."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    bag = DagBag()
    dags = {}
    for dag_id, dag in bag.dags.items():
        DagSerialization.serialize_dag(dag)
        dag.check_cycle()
        dags[dag_id] = {
            "doc_md": dag.doc_md,
            "tags": sorted(dag.tags),
            "max_active_runs": dag.max_active_runs,
            "catchup": dag.catchup,
            "deadlines": len(dag.deadline or []),
            "file": Path(dag.fileloc).name,
            "params": sorted(dag.params),
            "schedule": getattr(dag.schedule, "expression", str(dag.schedule)),
            "tasks": {task.task_id: _describe_task(task) for task in dag.tasks},
        }
    loaded = sorted({name.split(".")[0] for name in sys.modules} & HEAVY)
    return {
        "errors": {name: str(error) for name, error in bag.import_errors.items()},
        "dags": dags,
        "heavy": loaded,
    }


def _describe_task(task: Any) -> dict[str, Any]:
    return {
        "owner": task.owner,
        "retries": task.retries,
        "is_backed_off": bool(task.retry_exponential_backoff),
        "timeout": task.execution_timeout and task.execution_timeout.total_seconds(),
        "pool": task.pool,
        "upstream": sorted(task.upstream_task_ids),
        "trigger_rule": _value(task.trigger_rule),
        "is_mapped": task.is_mapped or any(True for _ in task.iter_mapped_task_groups()),
        "outlets": [asset.name for asset in task.outlets],
        "tells_of_failure": bool(task.on_failure_callback),
        "tells_of_retry": bool(task.on_retry_callback),
    }


def run(
    dag_id: str, date: str, skip: str | None = None, conf: dict[str, Any] | None = None, retries: int | None = None
) -> dict[str, Any]:
    """Run a DAG once; return the states."""
    from airflow.sdk import timezone

    dag = _dag(dag_id)
    for task in dag.tasks:
        task.retries = task.retries if retries is None else retries
    return _test(dag, timezone.parse(date), skip, conf)


def backfill(dag_id: str, first: str, last: str) -> list[dict[str, Any]]:
    """Do `pulse airflow backfill create`, then run what it made, in order."""
    from unittest.mock import patch

    import airflow.models.dagrun
    from airflow.models.dagrun import DagRun
    from airflow.sdk import timezone
    from airflow.utils.session import create_session
    from sqlalchemy import select

    dag = _dag(dag_id)
    _store_all()
    command = ["airflow", "backfill", "create", "--dag-id", dag_id, "--from-date", first, "--to-date", last]
    subprocess.run([sys.executable, "-m", "music_pulse.cli", *command], check=True)
    with create_session() as session:
        made = session.scalars(
            select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_type == "backfill").order_by(DagRun.logical_date)
        ).all()
        found = [each.logical_date for each in made]

    def existing(*, session: Any, dag: Any, logical_date: datetime, **_: Any) -> DagRun:
        one = session.scalar(select(DagRun).where(DagRun.dag_id == dag.dag_id, DagRun.logical_date == logical_date))
        one.dag = dag
        one.state = "running"
        one.start_date = timezone.utcnow()
        session.commit()
        return one

    with patch.object(airflow.models.dagrun, "get_or_create_dagrun", existing):
        return [_test(dag, logical_date) for logical_date in found]


def tell(url: str, body: Any) -> None:
    """Post `body`, and wait for the answer."""
    import requests

    requests.post(url, json=body, timeout=60).raise_for_status()


def _dag(dag_id: str) -> Any:
    """Load a DAG, without delays between tries. DAG.test stores it."""
    from airflow.dag_processing.dagbag import DagBag

    dag = DagBag(Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]) / f"{dag_id}.py").dags[dag_id]
    dag.deadline = None  # DAG.test of Airflow 3.3.2 fails on one, at its end
    for task in dag.tasks:
        task.retry_delay = timedelta(0)
    return dag


def _store_all() -> None:
    """Write the DAGs to the metadata, as the DAG processor does."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db

    manager = DagBundlesManager()
    manager.sync_bundles_to_db()
    for bundle in manager.get_all_dag_bundles():
        bag = BundleDagBag(dag_folder=bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
        sync_bag_to_db(bag, bundle.name, bundle.version)


def _test(
    dag: Any, logical_date: datetime, skip: str | None = None, conf: dict[str, Any] | None = None
) -> dict[str, Any]:
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    done = dag.test(logical_date=logical_date, run_conf=conf, mark_success_pattern=skip)
    with create_session() as session:
        tasks = session.scalars(select(TaskInstance).where(TaskInstance.run_id == done.run_id)).all()
        return {
            "state": _value(done.state),
            "run_type": _value(done.run_type),
            "tasks": {f"{task.task_id}[{task.map_index}]": [_value(task.state), task.try_number] for task in tasks},
        }


def _value(state: Any) -> str:
    return str(getattr(state, "value", state))


def main(orders: Path, result: Path) -> None:
    """Do each order; write what came of those that have a result."""
    given, results = json.loads(orders.read_text(encoding="utf-8")), list[Any]()
    if any(
        {"run", "backfill"} & set(order) and not re.match(order.get("skip") or "$^", "dbt.build") for order in given
    ):
        preload()
    for order in given:
        if "describe" in order:
            results.append(describe())
        elif "tell" in order:
            tell(order["tell"], order["body"])
        elif "run" in order:
            results.append(run(order.pop("run"), **order))
        else:
            results.append(backfill(order["backfill"], order["from"], order["to"]))
    result.write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
