"""Listens added, deleted and edited anywhere at ListenBrainz: after the next run the warehouse is what it shows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from doubles.listenbrainz import Fault, ListenBrainzDouble, listen
from helpers import MakeWarehouse, assert_marts_are, build, checksums, load, mart, query, to_lines, warm_dbt
from reference import expect

from extract.listenbrainz.reconcile import Reconciled, reconcile_listenbrainz
from music_pulse import run as steps
from music_pulse.settings import Settings

pytestmark = pytest.mark.integration

DAY = 86_400
NOW = int(time.time())
USERS = [f"user{number:02}" for number in range(20)]


@pytest.fixture(scope="module")
def api() -> Iterator[ListenBrainzDouble]:
    with ListenBrainzDouble() as double:
        yield double


@pytest.fixture
def settings(api: ListenBrainzDouble, make_warehouse: MakeWarehouse, tmp_path: Path) -> Settings:
    api.clear()
    return make_warehouse(listenbrainz_url=api.url, export_dir=str(tmp_path / "warehouse"))


def run(settings: Settings, users: list[str], *, is_full: bool = False) -> list[Reconciled]:
    """Do what `pulse run` does."""
    warm_dbt(settings)
    landed = steps.land_listenbrainz(settings, users, None)
    reconciled = steps.reconcile(settings, users, is_full=is_full)
    steps.finish(settings, landed, reconciled)
    return reconciled


def invented(chance: Random) -> dict[str, Any]:
    """Return a listen of the last two years; some repeat a second, a song, or both under another MSID."""
    second = NOW - 3 * DAY - chance.randrange(2 * 365 * 24) * 3600
    info = {"duration_ms": chance.choice([60_000, 200_000])} if chance.random() < 0.8 else {}
    return listen(second, f"Artist {chance.randrange(9)}", f"Track {chance.randrange(40)}", **info)


def edit(api: ListenBrainzDouble, user: str, chance: Random) -> None:
    """Change a history in one of the ways that histories change in."""
    rows = api.rows(user)
    some = chance.sample(rows, k=min(len(rows), chance.randint(1, 5)))
    kind = chance.choice(["add", "long ago", "delete", "map", "replace", "nothing"])
    if kind in ("add", "replace"):
        api.add(user, [invented(chance) for _ in range(chance.randint(1, 30))])
    if kind == "long ago":
        api.add(user, [listen(NOW - 10 * 365 * DAY + place, f"Early {place % 3}") for place in range(5)])
    if kind in ("delete", "replace"):
        for row in some:
            api.remove(user, row["listened_at"], row["recording_msid"])
    if kind == "map":
        for row in some:
            api.edit(user, row["listened_at"], mbid_mapping={"recording_mbid": "0" * 8 + "-0000-4000-8000-" + "0" * 12})


def assert_warehouse_is_the_double(settings: Settings, api: ListenBrainzDouble) -> None:
    shown = [row for user in USERS for row in api.rows(user)]
    assert_marts_are(settings, expect(to_lines(shown), now=time.time()))
    rows = {row["user_id"]: row for row in mart(settings, "reconciliation")}
    for user in USERS:
        assert (rows[user]["reported"], rows[user]["held"], rows[user]["difference"]) == (len(api.rows(user)),) * 2 + (
            0,
        )


def test_twenty_random_histories_with_random_edits_are_what_listenbrainz_shows(
    settings: Settings, api: ListenBrainzDouble
) -> None:
    chance = Random(20)
    settings = settings.model_copy(update={"reconcile_max_vanished": 1.0})
    for user in USERS:
        api.add(user, [invented(chance) for _ in range(chance.choice([1, 30, 200, 1_200]))])
    run(settings, USERS)
    assert_warehouse_is_the_double(settings, api)
    for _ in range(2):
        for user in USERS:
            edit(api, user, chance)
        run(settings, USERS, is_full=True)
        assert_warehouse_is_the_double(settings, api)
    done = run(settings, USERS)
    assert {one.requests for one in done} == {1}
    sums = checksums(settings)
    build(settings, full_refresh=True)
    assert checksums(settings) == sums


def test_only_the_months_that_a_change_touches_are_exported_again(
    settings: Settings, api: ListenBrainzDouble, tmp_path: Path
) -> None:
    """And a listen that a file holds, too, stays."""
    api.add("user00", [listen(NOW - 4 * DAY * place, f"Artist {place % 2}", f"Track {place}") for place in range(90)])
    run(settings, ["user00"])
    before = files(settings)
    gone, kept = (NOW - 4 * DAY * place for place in (30, 60))
    load(settings, tmp_path, [{"user_name": "user00", **listen(kept, "Artist 0", "Track 60")}])
    api.remove("user00", gone)
    api.remove("user00", kept)
    [done] = run(settings, ["user00"])
    assert (done.tombstones, done.difference) == (2, 0)
    month = time.strftime("%Y-%m", time.gmtime(gone))
    kept_month = time.strftime("%Y-%m", time.gmtime(kept))
    assert {entry["month"] for entry in files(settings) if entry not in before} == {None, month, kept_month}
    [row] = mart(settings, "reconciliation")
    assert (row["held"], row["listens"], row["deleted"], row["from_files"]) == (88, 89, 1, 1)
    assert mart(settings, "tracks", "track_name = 'Track 30'") == []
    assert [event["source"] for event in mart(settings, "listen_events", "track = 'Track 60'")] != ["listenbrainz"]
    assert query(
        settings, "select is_deleted from intermediate.int_listens_deduplicated where track_name = 'Track 30'"
    ) == [(True,)]
    api.add("user00", [listen(gone, "Artist 0", "Track 30")])
    run(settings, ["user00"])
    assert len(mart(settings, "listen_events", "track = 'Track 30'")) == 1


def files(settings: Settings) -> list[dict[str, Any]]:
    """Return the entries of the exported snapshot, less the mart that says when was checked."""
    found = json.loads((Path(settings.export_dir) / "manifest.json").read_text())["files"]
    return [entry for entry in found if entry["table"] != "reconciliation"]


def command(settings: Settings, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PULSE_HOME": str(settings.home),
        "PULSE_POSTGRES_DBNAME": settings.postgres_dbname,
        "PULSE_EXPORT_DIR": settings.export_dir,
        "PULSE_LISTENBRAINZ_URL": settings.listenbrainz_url,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "music_pulse.cli", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_reconciliation_that_is_killed_changes_no_number(settings: Settings, api: ListenBrainzDouble) -> None:
    api.add("Rob", [listen(NOW - 3 * DAY - 7_000 * place, "Artist", f"Track {place}") for place in range(2_000)])
    run(settings, ["rob"])
    sums = checksums(settings)
    api.remove("Rob", NOW - 3 * DAY - 7_000 * 1_990)
    api.add("Rob", [listen(NOW - 3 * DAY - 7_000 * place - 1, "Late") for place in (5, 1_500)])
    for request in (1, 2, 3):  # before anything can have been landed
        kill_at(api, settings, request)
    build(settings)
    assert checksums(settings) == sums
    for delay in (0.1, 0.3):  # while it is landed
        kill_at(api, settings, 4, delay)
    api.fault = None
    [done] = reconcile_listenbrainz(settings, ["rob"], is_full=True)
    build(settings)
    assert (done.difference, done.held) == (0, 2_001)
    assert_marts_are(settings, expect(to_lines(api.rows("Rob")), now=time.time()))


def kill_at(api: ListenBrainzDouble, settings: Settings, request: int, delay: float = 0.0) -> None:
    """Start a reconciliation and kill it when it makes that request, or some time after it."""
    process = command(settings, "reconcile", "--full")
    start = len(api.requests)

    def fault(index: int, path: str, query: dict[str, str]) -> Fault | None:
        if index - start + 1 != request:
            return None
        if delay:
            threading.Timer(delay, process.kill).start()
            return None
        process.kill()
        return Fault("reset")

    api.fault = fault
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_the_command_shows_count_beside_count_and_refuses_to_wipe(settings: Settings, api: ListenBrainzDouble) -> None:
    api.add("Rob", [listen(NOW - 3 * DAY - 7_000 * place) for place in range(20)])
    run(settings, ["rob"])
    for place in range(12):
        api.remove("Rob", NOW - 3 * DAY - 7_000 * place)
    refused = command(settings, "reconcile", "--user", "rob")
    shown = " ".join(refused.communicate()[0].split())
    assert refused.returncode == 7
    assert "error: 12 of 20 listens of Rob are gone at ListenBrainz" in shown
    assert query(settings, "select count(*) from marts.listen_events") == [(20,)]
    confirmed = command(settings, "reconcile", "--user", "rob", "--confirm")
    shown = " ".join(confirmed.communicate()[0].split())
    assert confirmed.returncode == 0
    assert "Rob 8 8 0 0 12 1 2" in shown
    assert query(settings, "select count(*) from marts.listen_events") == [(8,)]
