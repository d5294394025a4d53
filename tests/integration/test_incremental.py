"""Incremental builds: whatever comes, in whatever order, the marts are those of one load and one full build."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    MakeWarehouse,
    assert_marts_are,
    build,
    checksums,
    commit,
    dbt,
    execute,
    listen,
    load,
    load_ids,
    mart,
    query,
    row_versions,
    to_lines,
    uncommit,
)
from reference import expect

from music_pulse import transform
from music_pulse.database import connect
from music_pulse.errors import BuildError
from music_pulse.settings import PROJECT_ROOT, Settings
from music_pulse.stack import write_env_file

pytestmark = pytest.mark.integration

DAY = 86_400
EVENING = 1_700_078_400
"""2023-11-15T20:00:00Z: the next day in Tokyo."""
IN_2009 = 1_230_768_000
"""2009-01-01T00:00:00Z."""

NEW = [
    listen(EVENING + 60 * place, f"Track {place % 7}", f"Artist {place % 3}", user=user, ms=180_000)
    for place in range(40)
    for user in ("ann", "bob")
] + [listen(EVENING - 5 * DAY, "Short"), listen(EVENING - 4 * DAY, "Mine", user="Rob", ms=1000)]
MIDNIGHT = EVENING - 9 * DAY - 20 * 3600
NEW += [listen(MIDNIGHT - 10 * 60, "Before midnight"), listen(MIDNIGHT + 40 * 60, "After midnight", ms=60_000)]
OLD = [
    listen(IN_2009, "First of all", ms=240_000),
    listen(IN_2009, "Track 0", "Artist 0", user="bob"),
    listen(EVENING - 5 * DAY, "Short", ms=90_000, album="Longer"),  # a better row of a listen that is built
    listen(EVENING - 4 * DAY, "Mine", user="rob", ms=2000),  # the same, under another spelling of the user
    listen(EVENING, "Track 0", "Artist 0", user="ann", ms=1),  # a worse one
]
LATE = [
    listen(EVENING - 3 * DAY, "Late"),
    listen(EVENING - 3 * DAY, "Late", ms=7),
    listen(MIDNIGHT + 15 * 60, "Midnight"),  # joins two sessions
]
LATER = [
    listen(EVENING - 2 * DAY, "TRACK 1", "ARTIST 1"),
    listen(EVENING - 2 * DAY + 1, "TRACK 1", "ARTIST 1"),
    listen(MIDNIGHT - 40 * 60, "Sooner"),  # lengthens one
    listen(MIDNIGHT + 70 * 60 + 1, "Too late"),  # begins one
]


def expected_of(*loads: list[Any], **how: Any) -> Any:
    return expect(to_lines([item for items in loads for item in items]), now=time.time(), **how)


def test_a_warehouse_grows_as_if_all_had_come_at_once(
    make_warehouse: MakeWarehouse, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """One warehouse that grows step by step: builds are dear."""
    grown = make_warehouse()
    with subtests.test("a listen of 2009 loaded today is right after the next build"):
        a_listen_of_2009_loaded_today_is_right_after_the_next_build(grown, tmp_path)
    with subtests.test("a longer duplicate replaces the winner, and its day alone is built"):
        a_longer_duplicate_replaces_the_winner_and_its_day_alone(grown)
    with subtests.test("a load counts once committed, even after a newer one"):
        a_load_counts_once_committed_even_after_a_newer_one(grown, tmp_path)
    with subtests.test("a build with nothing new writes no row"):
        a_build_with_nothing_new_writes_no_row(grown)
    with subtests.test("another time zone moves the days"):
        another_time_zone_moves_the_days(grown)
    with subtests.test("all that equals a full refresh, and one load in another order"):
        all_that_growing_equals_a_full_refresh_and_one_load_in_another_order(grown, make_warehouse, tmp_path)
    with subtests.test("a time zone of a user moves that user's days"):
        a_zone_of_a_user_moves_that_users_days(in_tokyo(grown))
    with subtests.test("a missing primary key is found"):
        a_missing_primary_key_is_found(in_tokyo(grown))


def a_listen_of_2009_loaded_today_is_right_after_the_next_build(grown: Settings, tmp_path: Path) -> None:
    load(grown, tmp_path, NEW)
    build(grown)
    assert_marts_are(grown, expected_of(NEW))
    load(grown, tmp_path, OLD)
    before = row_versions(grown)
    build(grown)
    assert_marts_are(grown, expected_of(NEW, OLD))
    assert query(grown, "select count(*) from marts.daily_aggregates where day = '2009-01-01'") != [(0,)]
    stored = "intermediate.int_listens_deduplicated"
    assert len(before[stored] - row_versions(grown)[stored]) == 2  # Short and Mine


def a_longer_duplicate_replaces_the_winner_and_its_day_alone(grown: Settings) -> None:
    [short] = mart(grown, "listen_events", "track = 'Short'")
    assert (short["duration_ms"], short["album"], short["day"]) == (90_000, "Longer", date(2023, 11, 10))
    of_the_day = "metric = 'minutes_listened' and dimension = 'all' and day = '2023-11-10'"
    minutes = mart(grown, "daily_aggregates", of_the_day)
    assert [row["value"] for row in minutes] == [1.5]
    newest = query(grown, "select max(changed_at) from intermediate.int_listens_deduplicated")
    touched = query(
        grown, "select distinct day::text from intermediate.int_listens_deduplicated where changed_at = %s", newest[0]
    )
    assert sorted(touched) == [("2009-01-01",), ("2023-11-10",), ("2023-11-11",)]


def a_load_counts_once_committed_even_after_a_newer_one(grown: Settings, tmp_path: Path) -> None:
    load(grown, tmp_path, LATE)
    late = load_ids(grown)[-1]
    load(grown, tmp_path, LATER)
    uncommit(grown, late)
    build(grown)
    assert_marts_are(grown, expected_of(NEW, OLD, LATER))
    assert not mart(grown, "tracks", "track_name = 'Late'")
    commit(grown, late)
    build(grown)
    assert_marts_are(grown, expected_of(NEW, OLD, LATER, LATE))


def a_build_with_nothing_new_writes_no_row(grown: Settings) -> None:
    before, sums = row_versions(grown), checksums(grown)
    build(grown, time_zone="Etc/UTC")  # another name of the same time, which moves no day
    assert (row_versions(grown), checksums(grown)) == (before, sums)


def another_time_zone_moves_the_days(grown: Settings) -> None:
    build(grown, time_zone="Asia/Tokyo")
    assert_marts_are(grown, expected_of(NEW, OLD, LATE, LATER, time_zone="Asia/Tokyo"))


def all_that_growing_equals_a_full_refresh_and_one_load_in_another_order(
    grown: Settings, make_warehouse: MakeWarehouse, tmp_path: Path
) -> None:
    sums = checksums(grown)
    build(grown, full_refresh=True, time_zone="Asia/Tokyo")
    assert checksums(grown) == sums
    other = make_warehouse()
    load(other, tmp_path, [*LATER, *reversed(OLD), *LATE, *reversed(NEW)])
    build(other, time_zone="Asia/Tokyo")
    assert checksums(other) == sums


def in_tokyo(settings: Settings) -> Settings:
    """Return settings with the time zone of the last builds: dbt parses all anew for another."""
    return settings.model_copy(update={"dbt_vars": {"time_zone": "Asia/Tokyo"}})


def a_zone_of_a_user_moves_that_users_days(grown: Settings) -> None:
    for row in (("bob", "America/Los_Angeles"), ("ROB", "Pacific/Kiritimati")):  # however the listens spell Rob
        execute(grown, "insert into staging.user_time_zones values (%s, %s)", row)
    assert dbt(grown, "run")
    zones = {"bob": "America/Los_Angeles", "rob": "Pacific/Kiritimati"}
    assert_marts_are(grown, expected_of(NEW, OLD, LATE, LATER, time_zone="Asia/Tokyo", zones=zones))


def a_missing_primary_key_is_found(grown: Settings) -> None:
    [(name,)] = query(
        grown, "select conname from pg_constraint where conrelid = 'marts.tracks'::regclass and contype = 'p'"
    )
    execute(grown, f'alter table marts.tracks drop constraint "{name}"')
    assert not dbt(grown, "test", "--select", "tracks,test_name:primary_key")


def test_a_build_tests_what_has_not_passed_yet_and_dbt_test_everything(warehouse: Settings, tmp_path: Path) -> None:
    def passes_all() -> bool:
        return dbt(warehouse, "test", "--select", "listen_events")

    load(warehouse, tmp_path, NEW)
    build(warehouse)
    load(warehouse, tmp_path, LATE)
    execute(warehouse, "update raw.listens set source = 'gramophone' where track_name = 'Late'")
    for _ in range(2):  # the second build has nothing new, but what failed isn't forgotten
        with pytest.raises(BuildError, match="accepted_values_listen_events_source"):
            build(warehouse)
    assert not passes_all()
    execute(
        warehouse, "update intermediate.int_listens_deduplicated set source = 'synthetic' where source = 'gramophone'"
    )
    build(warehouse)
    assert passes_all()
    execute(warehouse, "update intermediate.int_listens_deduplicated set source = 'gramophone' where user_id = 'bob'")
    build(warehouse)  # rows that have passed stay untouched, so it need not look at them again
    assert not passes_all()


def test_dbt_typed_by_hand_needs_the_env_file_only(warehouse: Settings, tmp_path: Path) -> None:
    """The unit tests run here, too."""
    load(warehouse, tmp_path, NEW)
    program = PROJECT_ROOT / ".venv" / "bin" / "dbt"
    folder = "--project-dir dbt_project --profiles-dir ."
    steps = [f". '{write_env_file(warehouse)}'", f"cd '{PROJECT_ROOT}'"]
    steps += [f"'{program}' --quiet {words} {folder}" for words in ("build", "test", "docs generate")]
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(tmp_path)}
    environment |= {"DBT_TARGET_PATH": str(tmp_path / "target"), "DBT_LOG_PATH": str(tmp_path / "logs")}
    done = subprocess.run(["sh", "-c", " && ".join(steps)], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "target" / "catalog.json").exists()
    assert_marts_are(warehouse, expected_of(NEW))


def test_a_load_committed_during_a_build_is_neither_lost_nor_half_built(warehouse: Settings, tmp_path: Path) -> None:
    loads: dict[str, list[Any]] = {}
    for number in range(8):
        items = NEW[number::8] + [listen(EVENING + number * DAY, f"Of load {number}", ms=1000 * number)]
        load(warehouse, tmp_path, items)
        loads[load_ids(warehouse)[-1]] = items
    assert len(loads) == 8
    first, *rest = loads
    for load_id in rest:
        uncommit(warehouse, load_id)
    build(warehouse)
    with _committing(warehouse, rest):
        build(warehouse)
    built = query(warehouse, "select load_id from intermediate.int_built_loads")
    assert_marts_are(warehouse, expected_of(*(loads[load_id] for (load_id,) in built if load_id in loads)))
    build(warehouse)
    assert_marts_are(warehouse, expected_of(*loads.values()))


@contextmanager
def _committing(settings: Settings, ids: list[str]) -> Iterator[None]:
    """Commit loads one after the other, all the while."""

    def run() -> None:
        for load_id in ids:
            time.sleep(1.1)
            commit(settings, load_id)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()


def test_after_failed_and_killed_builds_the_next_one_makes_it_right(warehouse: Settings, tmp_path: Path) -> None:
    load(warehouse, tmp_path, NEW)
    build(warehouse)
    load(warehouse, tmp_path, OLD)
    execute(warehouse, "alter table marts.user_daily_tracks add constraint nothing check (false) not valid")
    with pytest.raises(BuildError, match="user_daily_tracks"):
        build(warehouse)
    execute(warehouse, "alter table marts.user_daily_tracks drop constraint nothing")
    load(warehouse, tmp_path, LATER)
    _kill_in_the_middle(warehouse)
    load(warehouse, tmp_path, LATE)
    # What others have built on a view stays; a view of an older version has other columns.
    execute(warehouse, "create view public.mine as select day, name from marts.daily_top")
    execute(warehouse, "drop view marts.user_streaks cascade")
    execute(warehouse, "create view marts.user_streaks as select 1 as days, 'x' as user_id")
    execute(warehouse, f'alter view marts.user_streaks owner to "{warehouse.credentials("transformer").user}"')
    build(warehouse)
    assert query(warehouse, "select count(*) from public.mine") == query(
        warehouse, "select count(*) from marts.daily_top"
    )
    assert_marts_are(warehouse, expected_of(NEW, OLD, LATER, LATE))


def _kill_in_the_middle(settings: Settings) -> None:
    """Kill dbt while it waits for a table that is written in the middle of a build."""
    with connect(settings.credentials("admin")) as blocker:
        blocker.execute("lock table marts.tracks in access exclusive mode")
        command = transform._command(settings, ["--quiet", "build"])
        process = subprocess.Popen(command, env=transform.dbt_environment(settings), stdout=subprocess.DEVNULL)
        waits = "select 1 from pg_locks where relation = 'marts.tracks'::regclass and not granted"
        deadline = time.monotonic() + 60
        while not query(settings, waits):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(2)  # for the models that don't wait
        process.kill()
        process.wait()
