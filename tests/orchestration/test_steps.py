"""What the tasks decide by themselves; the rest is the command's."""

from __future__ import annotations

import logging
import warnings
from datetime import UTC, date, datetime
from typing import Any

import pytest

from music_pulse.errors import DatabaseError, UnknownUserError
from music_pulse.settings import Settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Airflow's own, as it is imported
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.sdk import DAG
    from airflow.sdk.api.datamodels import _generated as sdk
    from airflow.sdk.exceptions import AirflowFailException

    from orchestration import dbt_config, rules, steps


def day(second: float) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d}"


def test_a_backfill_is_cut_into_months_newest_first_without_a_gap() -> None:
    cut = steps.months(["ann", "bob"], date(2025, 11, 20), date(2026, 1, 2))
    assert [(piece["name"], day(piece["start"]), day(piece["end"])) for piece in cut] == [
        ("ann", "2026-01-01", "2026-01-03"),
        ("bob", "2026-01-01", "2026-01-03"),
        ("ann", "2025-12-01", "2026-01-01"),
        ("bob", "2025-12-01", "2026-01-01"),
        ("ann", "2025-11-20", "2025-12-01"),
        ("bob", "2025-11-20", "2025-12-01"),
    ]


def test_one_day_is_one_piece() -> None:
    [piece] = steps.months(["ann"], date(2026, 2, 1), date(2026, 2, 1))
    assert piece["end"] - piece["start"] == 86_400


def test_only_a_backfill_reads_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    def interval_of(kind: sdk.DagRunType) -> Any:
        start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
        run = sdk.DagRun.model_construct(run_type=kind, data_interval_start=start, data_interval_end=end)
        monkeypatch.setattr(steps, "get_current_context", lambda: {"dag_run": run})
        return steps._backfilled_interval()

    assert interval_of(sdk.DagRunType.BACKFILL) == (1_767_225_600, 1_767_312_000)
    assert interval_of(sdk.DagRunType.SCHEDULED) is None


class Told:
    """Of a task: what it told others, in order."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def xcom_push(self, key: str, value: Any) -> None:
        assert key == "skipmixin_key"
        self.values.append(value)


def test_a_build_that_does_not_come_to_say_what_is_done_leaves_its_nodes_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def out_of_reach() -> Any:
        raise RuntimeError("the database is out of reach")

    monkeypatch.setattr(dbt_config, "warehouse", out_of_reach)
    with DAG("one"):
        build = dbt_config.Build(task_id="build")
        build >> [EmptyOperator(task_id="export"), dbt_config.Node(task_id="node", unique_id="model.one")]
    told = Told()
    with pytest.raises(RuntimeError, match="out of reach"):
        build.execute({"ti": told})
    assert told.values == [{"followed": ["export"]}]


def test_what_we_log_is_in_the_log_of_the_task_with_its_level_and_without_secrets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    record = logging.LogRecord("music_pulse.run", logging.INFO, __file__, 1, "read with %s", ("token=abc",), None)
    rules.TaskLog().emit(record)
    assert [(one.name, one.levelname, one.getMessage()) for one in caplog.records] == [
        ("music_pulse.run", "INFO", "read with token=***")
    ]


def test_what_trying_again_does_not_mend_fails_at_once(warehouse: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSE_HOME", str(warehouse.home))
    monkeypatch.setenv("PULSE_POSTGRES_DBNAME", warehouse.postgres_dbname)
    with pytest.raises(AirflowFailException, match="no such user"), rules.warehouse():
        raise UnknownUserError("no such user", url="http://127.0.0.1")
    with pytest.raises(RuntimeError, match="gone away"), rules.warehouse():
        raise DatabaseError("gone away")
