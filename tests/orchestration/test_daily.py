"""music_pulse_daily for real: Airflow, Cosmos, dbt, Postgres and a double of the API; beside `pulse run`.

A history of three days grows by daily runs. To save minutes, the marts are built by the last of them, and when it runs
again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from doubles.listenbrainz import Fault, ListenBrainzDouble, listen
from doubles.webhook import WebhookDouble
from helpers import MakeWarehouse, checksums, execute, mart, query, row_versions

from music_pulse import run as steps
from music_pulse import transform
from music_pulse.settings import Settings

pytestmark = pytest.mark.integration

USERS = ["ann", "bob"]
BROKEN = "marts.user_daily_hours"
BUILDING = r"dbt\..*|export|freshness"
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
DAYS = [TODAY - timedelta(days=back) for back in (6, 5, 4)]


def heard_on(day: datetime, user: str) -> list[dict[str, Any]]:
    """Return a day of a user: songs that others hear, too, and the day's first and last second."""
    start, other = int(day.timestamp()), len(user) + day.day
    seconds = [start, *range(start + 600, start + 86_000, 1_200), start + 86_399]
    return [
        listen(second, f"Artist {(place + other) % 7}", f"Track {place % 11}", duration_ms=200_000)
        for place, second in enumerate(seconds)
    ]


class Story:
    """What happened, in the order of the tests: three days by daily runs, and once more by a backfill."""

    daily: Settings
    states: list[dict[str, Any]]
    marts: dict[str, Any]


@pytest.fixture(scope="module")
def api() -> Iterator[ListenBrainzDouble]:
    with ListenBrainzDouble() as double:
        yield double


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookDouble]:
    with WebhookDouble() as double:
        yield double


@pytest.fixture(scope="module")
def settings_of(
    api: ListenBrainzDouble, make_warehouse: MakeWarehouse, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    def make() -> Settings:
        folder = tmp_path_factory.mktemp("home")
        return make_warehouse(listenbrainz_url=api.url, export_dir=str(folder / "warehouse"))

    return make


@pytest.fixture(scope="module")
def environment(receiver: WebhookDouble) -> dict[str, str]:
    return {
        "AIRFLOW_VAR_MUSIC_PULSE_USERS": '["ann", "bob"]',
        "PULSE_ALERT_WEBHOOK_URL": f"{receiver.url}/alerts",
        "PULSE_LISTENBRAINZ_ATTEMPTS": "1",
    }


@pytest.fixture(scope="module")
def story(api: ListenBrainzDouble, ask: Any, settings_of: Any, environment: dict[str, str]) -> Story:
    told = Story()
    told.daily, orders = settings_of(), []

    def begin(number: int) -> None:
        for user in USERS:
            api.add(user, heard_on(DAYS[number], user))
        if number == 1:  # the first request of the second day fails for good
            api.faults.append(Fault("status", 500))

    with WebhookDouble() as calendar:
        calendar.react = begin
        for number, day in enumerate(DAYS):
            orders.append({"tell": calendar.url, "body": number})
            orders.append({"run": "music_pulse_daily", "date": (day + timedelta(hours=1)).isoformat()})
        told.states = ask(told.daily, *orders, **environment)
    told.marts = marts_of(told.daily)
    return told


def test_each_daily_run_succeeds(story: Story) -> None:
    assert [run["state"] for run in story.states] == ["success"] * 3
    for run in story.states:
        assert {state for state, _ in run["tasks"].values()} == {"success", "skipped"}
        assert [name for name, (state, _) in run["tasks"].items() if state == "skipped"] == ["verdict[-1]"]


def test_a_task_that_fails_is_retried_told_of_and_goes_on_without_doubles(
    story: Story, receiver: WebhookDouble, api: ListenBrainzDouble
) -> None:
    tries = {name: attempts for name, (_, attempts) in story.states[1]["tasks"].items() if attempts > 1}
    assert tries == {"user.extract[0]": 2} or tries == {"user.extract[1]": 2}
    [(path, alert)] = receiver.received
    assert path == "/alerts"
    assert (alert["event"], alert["dag_id"], alert["task_id"], alert["try_number"]) == (
        "is retried", "music_pulse_daily", "user.extract", 1,
    )  # fmt: skip
    assert "500" in alert["error"]
    [(landed, distinct)] = query(story.daily, "select count(*), count(distinct listen_id) from raw.listens")
    assert landed == distinct == sum(len(api.rows(user)) for user in USERS)


def test_the_same_day_once_more_changes_nothing_though_builds_fail_before(
    story: Story, ask: Any, environment: dict[str, str], receiver: WebhookDouble
) -> None:
    """A table can't be written until a build has failed for good, and another once; then that one is tried again."""
    before, files = row_versions(story.daily), exported(story.daily)
    owner = story.daily.credentials("transformer").user

    def mend(alert: dict[str, Any]) -> None:
        if alert["event"] == "is retried":
            execute(story.daily, f"alter table {BROKEN} owner to {owner}")

    execute(story.daily, f"alter table {BROKEN} owner to {story.daily.credentials('admin').user}")
    receiver.received.clear()
    receiver.react = mend
    orders = [
        {"run": "music_pulse_daily", "date": (DAYS[-1] + timedelta(hours=hour)).isoformat(), "retries": retries}
        for hour, retries in ((2, 0), (3, 1))
    ]
    failed, mended = ask(story.daily, *orders, **environment)
    assert (failed["state"], mended["state"]) == ("failed", "success")
    assert mended["tasks"]["dbt.build[-1]"] == ["success", 2]
    told = [(alert["task_id"], alert["event"]) for _, alert in receiver.received]
    assert told == [("dbt.build", "failed"), ("dbt.build", "is retried")]
    states = {name.removesuffix("[-1]"): state for name, (state, _) in failed["tasks"].items()}
    assert (states["dbt.listen_events.run"], states["dbt.listen_events.test"]) == ("success", "success")
    assert (states["dbt.user_daily_hours.run"], states["dbt.user_daily_hours.test"]) == ("skipped", "skipped")
    assert (states["export"], states["verdict"]) == ("upstream_failed", "skipped")
    assert marts_of(story.daily) == story.marts
    assert (row_versions(story.daily), exported(story.daily)) == (before, files)


def test_pulse_run_has_the_same_marts(story: Story, settings_of: Any) -> None:
    other = settings_of()
    landed = steps.land_listenbrainz(other, USERS, None)
    steps.finish(other, landed, steps.reconcile(other, USERS))
    assert marts_of(other) == story.marts


def test_somebody_who_can_not_be_read_fails_the_run_but_keeps_nobody_from_the_marts(
    story: Story, ask: Any, environment: dict[str, str]
) -> None:
    order = {"run": "music_pulse_daily", "date": (DAYS[-1] + timedelta(hours=4)).isoformat(), "skip": BUILDING}
    named = {"AIRFLOW_VAR_MUSIC_PULSE_USERS": '["nobody", "ann"]'}
    [run] = ask(story.daily, order, **(environment | named))
    assert run["state"] == "failed"
    states = {name.removesuffix("[-1]"): state for name, (state, _) in run["tasks"].items()}
    assert (states["user.extract[0]"], states["user.reconcile[0]"]) == ("failed", "upstream_failed")
    assert (states["user.extract[1]"], states["user.reconcile[1]"]) == ("success", "success")
    assert [states[name] for name in ("enrich", "export", "verdict")] == ["success", "success", "failed"]


def test_a_backfill_of_three_days_has_the_same_marts(
    story: Story, ask: Any, settings_of: Any, environment: dict[str, str], api: ListenBrainzDouble
) -> None:
    """Each run reads its own day again, by listened_at, and no other."""
    other = settings_of()
    elsewhere = int(DAYS[0].timestamp()) - 86_400
    api.add("ann", [listen(elsewhere, "Artist of another day", "Track")])
    order = {
        "backfill": "music_pulse_daily",
        "from": DAYS[0].isoformat(),
        "to": DAYS[-1].isoformat(),
    }
    [runs] = ask(other, order, **environment)
    api.remove("ann", elsewhere)
    assert [(run["run_type"], run["state"]) for run in runs] == [("backfill", "success")] * 3
    # ListenBrainz reports the listen of the other day, too.
    reported = [
        row | {name: row[name] + (row["user_id"] == "ann") for name in ("reported", "difference")}
        for row in story.marts["reconciliation"]
    ]
    assert marts_of(other) == story.marts | {"reconciliation": reported}


def test_the_other_dags_run_on_what_the_daily_one_has_built(
    story: Story, ask: Any, environment: dict[str, str], api: ListenBrainzDouble
) -> None:
    """What their functions do has tests of its own; the build and the docs, slow and run elsewhere, are left out."""
    settings, date = story.daily, DAYS[-1].isoformat()
    for day in DAYS:
        api.add("cid", heard_on(day, "cid"))
    conf = {"users": ["cid"], "from_day": f"{DAYS[0]:%Y-%m-%d}", "to_day": f"{DAYS[1]:%Y-%m-%d}"}
    refused = "select payload from raw.quarantine where user_name = 'cid'"
    execute(
        settings,
        """
        insert into raw.quarantine
        select
            'listenbrainz', null, null, 'cid', 'no artist', %s, %s, now() - interval '91 days', max(_dlt_load_id)
        from raw.listens
        """,
        [json.dumps({"listened_at": 1_600_000_000, "track_metadata": {"track_name": "of long ago"}}), UUID(int=1)],
    )
    done = ask(
        settings,
        {"run": "music_pulse_backfill", "date": date, "conf": conf, "skip": BUILDING},
        {"run": "warehouse_maintenance", "date": date},
        {"run": "data_quality", "date": date, "skip": "freshness|docs"},
        {"run": "trending_refresh", "date": date},
        **environment,
    )
    assert [run["state"] for run in done] == ["success"] * 4
    assert done[-1]["tasks"] == {"refresh_trending[-1]": ["success", 1]}
    results = json.loads((transform.target_path(settings) / "run_results.json").read_text())["results"]
    nodes = {".".join(result["unique_id"].split(".")[:3]) for result in results}
    assert {name for name in nodes if not name.startswith("operation.")} == {
        "model.music_pulse.trending_recomputed",
        "test.music_pulse.primary_key_trending_recomputed_window_start__kind__id",
        "test.music_pulse.assert_stream_and_batch_agree",
        "test.music_pulse.unique_together_trending_kind__rank",
        "test.music_pulse.not_null_trending_name",
    }
    [(landed,)] = query(settings, "select count(*) from raw.listens where user_name = 'cid'")
    assert landed == sum(len(heard_on(day, "cid")) for day in DAYS[:2])
    assert query(settings, refused) == [('{"listened_at": 1600000000}',)]
    assert query(settings, "select count(*) > 0 from pg_stat_user_tables where last_vacuum is not null") == [(True,)]


def marts_of(settings: Settings) -> dict[str, Any]:
    """Return a checksum of every mart; of `reconciliation` the rows, but for when ListenBrainz was asked."""
    counts = [{**row, "checked_at": None} for row in mart(settings, "reconciliation")]
    return {**checksums(settings), "reconciliation": sorted(counts, key=lambda row: str(row["user_id"]))}


def exported(settings: Settings) -> dict[str, int]:
    """Return the exported files and when they were written, but for that of `reconciliation`."""
    paths = Path(settings.export_dir).rglob("*.parquet")
    return {str(path): path.stat().st_mtime_ns for path in paths if "reconciliation" not in path.parts}
