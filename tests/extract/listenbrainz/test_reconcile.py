"""Reconciliation against the API's double and a real Postgres: what raw holds is what ListenBrainz shows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from doubles.listenbrainz import Fault, ListenBrainzDouble, listen
from helpers import MakeWarehouse, execute, query

from extract.listenbrainz import extract_listenbrainz
from extract.listenbrainz.reconcile import Reconciled, reconcile_listenbrainz
from music_pulse.errors import ExternalAPIError, ReconciliationError, UnknownUserError
from music_pulse.forget import forget
from music_pulse.settings import Settings

DAY = 86_400
NOW = int(time.time())
LISTENS = 2_500
"""Three windows."""


@pytest.fixture
def api() -> Iterator[ListenBrainzDouble]:
    with ListenBrainzDouble() as double:
        double.add("Rob", [listen(at(place), f"Artist {place % 7}", f"Track {place}") for place in range(LISTENS)])
        yield double


@pytest.fixture
def settings(api: ListenBrainzDouble, make_warehouse: MakeWarehouse) -> Settings:
    """A warehouse that has read Rob's history."""
    ready = make_warehouse(listenbrainz_url=api.url, listenbrainz_attempts=1)
    extract_listenbrainz(ready, ["rob"])
    return ready


def at(place: int) -> int:
    """Return when the listen `place` of Rob was listened to; 0 is the newest."""
    return NOW - 3 * DAY - place * 10_000


def utc(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S}"


def reconcile(settings: Settings, **how: Any) -> Reconciled:
    [done] = reconcile_listenbrainz(settings, ["rob"], **how)
    return done


def live_rows(settings: Settings) -> dict[tuple[int, str], list[tuple[str, str]]]:
    """Return the rows that no tombstone binds, by second and MSID: as (artist, MBID)."""
    bound: dict[UUID, str] = {}
    for digest, load_id in query(settings, "select payload_hash, _dlt_load_id from raw.listen_tombstones"):
        bound[digest] = max(load_id, bound.get(digest, ""))
    found: dict[tuple[int, str], list[tuple[str, str]]] = {}
    for second, msid, digest, load_id, artist, mbid in query(
        settings,
        "select cast(extract(epoch from listened_at) as bigint), recording_msid::text, payload_hash, _dlt_load_id,"
        " artist_name, recording_mbid::text from raw.listens",
    ):
        if load_id > bound.get(digest, ""):
            found.setdefault((second, msid), []).append((artist, mbid))
    return found


def assert_raw_is_as_shown(settings: Settings, api: ListenBrainzDouble, user: str = "Rob") -> None:
    shown = {
        (row["listened_at"], row["recording_msid"]): [
            (
                row["track_metadata"]["artist_name"],
                row["track_metadata"].get("mbid_mapping", {}).get("recording_mbid"),
            )
        ]
        for row in api.rows(user)
    }
    assert live_rows(settings) == shown


def test_where_nothing_changed_one_request_is_made_and_nothing_landed(
    settings: Settings, api: ListenBrainzDouble
) -> None:
    loads = query(settings, "select count(*) from raw._dlt_loads")
    api.requests.clear()
    done = reconcile(settings)
    assert [path for path, _ in api.requests] == ["/1/user/rob/listen-count"]
    assert (done.user_name, done.reported, done.held, done.requests) == ("Rob", LISTENS, LISTENS, 1)
    assert not done.is_changed
    assert query(settings, "select count(*) from raw._dlt_loads") == loads


def test_what_was_added_anywhere_is_landed_once(settings: Settings, api: ListenBrainzDouble) -> None:
    api.add("Rob", [listen(NOW - 10 * 365 * DAY, "Long ago"), listen(at(1_200) + 5, "Between")])
    done = reconcile(settings)
    assert (done.difference, done.landed.listens, done.tombstones, done.note) == (0, 2, 0, "")
    assert_raw_is_as_shown(settings, api)
    assert reconcile(settings).requests == 1


def test_the_likeliest_windows_are_read_first(settings: Settings, api: ListenBrainzDouble) -> None:
    api.remove("Rob", at(10))
    assert reconcile(settings).requests == 2
    assert_raw_is_as_shown(settings, api)


def test_what_was_deleted_gets_a_tombstone_and_counts_again_when_it_comes_back(
    settings: Settings, api: ListenBrainzDouble
) -> None:
    [gone] = [row for row in api.rows("Rob") if row["listened_at"] == at(2_000)]
    for _ in range(2):
        api.remove("Rob", at(2_000))
        done = reconcile(settings)
        assert (done.difference, done.landed.listens, done.tombstones) == (0, 0, 1)
        assert_raw_is_as_shown(settings, api)
        api.add("Rob", [gone])
        done = reconcile(settings)
        assert (done.difference, done.landed.listens, done.tombstones) == (0, 1, 0)
        assert_raw_is_as_shown(settings, api)
    assert query(settings, "select distinct reason, listen_id is null from raw.listen_tombstones") == [
        ("deleted", False)
    ]


def test_the_extraction_lands_again_what_came_back(settings: Settings, api: ListenBrainzDouble) -> None:
    [gone] = [row for row in api.rows("Rob") if row["listened_at"] == at(0)]
    api.remove("Rob", at(0))
    assert reconcile(settings).tombstones == 1
    api.add("Rob", [gone])
    assert extract_listenbrainz(settings, ["rob"]).listens == 1
    assert reconcile(settings).requests == 1
    assert_raw_is_as_shown(settings, api)


def test_an_edit_is_one_tombstone_and_one_row(settings: Settings, api: ListenBrainzDouble) -> None:
    mbid = "00000000-0000-4000-8000-000000000001"
    api.edit("Rob", at(2_400), mbid_mapping={"recording_mbid": mbid})
    done = reconcile(settings, is_full=True)
    assert (done.difference, done.landed.listens, done.tombstones, done.windows) == (0, 1, 1, 3)
    assert query(settings, "select reason from raw.listen_tombstones") == [("edited",)]
    assert_raw_is_as_shown(settings, api)


def test_what_cancels_out_is_found_by_stale_windows_in_time(settings: Settings, api: ListenBrainzDouble) -> None:
    swap(api, 2_400, 1_200)
    assert reconcile(settings).requests == 1
    runs = [reconcile_at(settings, NOW + (8 + run) * DAY) for run in range(3)]
    assert sum(run.tombstones for run in runs) == sum(run.landed.listens for run in runs) == 1
    assert_raw_is_as_shown(settings, api)
    assert reconcile_at(settings, NOW + 12 * DAY).requests == 1


def test_what_cancels_out_is_found_by_full_at_once(settings: Settings, api: ListenBrainzDouble) -> None:
    swap(api, 2_400, 1_200)
    done = reconcile(settings, is_full=True)
    assert (done.windows, done.tombstones, done.landed.listens) == (3, 1, 1)
    assert_raw_is_as_shown(settings, api)


def test_a_rescan_reads_its_interval_alone_whatever_the_counts_say(settings: Settings, api: ListenBrainzDouble) -> None:
    swap(api, 2_400, 1_200)
    outside = reconcile(settings, interval=(at(1_100), at(1_000)))
    assert (outside.windows, outside.landed.listens, outside.tombstones) == (1, 0, 0)
    inside = reconcile(settings, interval=(at(2_400), at(1_199)))
    assert (inside.landed.listens, inside.tombstones, inside.error) == (1, 1, None)
    assert_raw_is_as_shown(settings, api)


def test_a_rescan_of_a_user_who_was_never_read_lands_its_interval(settings: Settings, api: ListenBrainzDouble) -> None:
    api.add("New", [listen(NOW - days * DAY, f"Artist {days}") for days in range(2, 90)])
    [done] = reconcile_listenbrainz(settings, ["new"], interval=(NOW - 70 * DAY, NOW - 9 * DAY))
    assert (done.user_name, done.landed.listens, done.windows, done.held) == ("New", 61, 3, 61)
    assert extract_listenbrainz(settings, ["new"]).listens == 27


def swap(api: ListenBrainzDouble, gone: int, new: int) -> None:
    api.remove("Rob", at(gone))
    api.add("Rob", [listen(at(new) + 1, "Instead")])


def reconcile_at(settings: Settings, now: int) -> Reconciled:
    return reconcile(settings.model_copy(update={"reconcile_windows": 1}), clock=lambda: now)


def test_refused_records_count_and_vanish_as_listens_do(settings: Settings, api: ListenBrainzDouble) -> None:
    nameless = {
        "listened_at": at(500) + 1,
        "user_name": "Rob",
        "recording_msid": "00000000-0000-4000-8000-000000000000",
        "track_metadata": {"artist_name": " ", "track_name": "T"},
    }
    api.add_raw("Rob", nameless)
    done = reconcile(settings)
    assert (done.held, done.difference, done.landed.refused) == (LISTENS + 1, 0, 1)
    assert not reconcile(settings, is_full=True).is_changed
    api.remove("Rob", at(500) + 1)
    done = reconcile(settings)
    assert (done.held, done.difference, done.tombstones) == (LISTENS, 0, 1)
    assert not reconcile(settings, is_full=True).is_changed


def test_a_page_that_is_cached_is_not_believed(settings: Settings, api: ListenBrainzDouble) -> None:
    reconcile(settings, is_full=True)
    api.caches = True
    reconcile(settings, is_full=True)
    api.remove("Rob", at(700))
    done = reconcile(settings, is_full=True)
    assert done.tombstones == 1
    assert done.reported == LISTENS  # the count is cached, too
    assert done.note.startswith("1 in the window ")
    assert "held before): deleted there" in done.note
    done = reconcile(settings)
    assert done.note.startswith(f"1 from {utc(at(700))} to {utc(at(700) + 1)} UTC: deleted there")
    api.caches = False
    assert reconcile(settings).note == ""


def test_a_count_that_does_not_know_the_last_minutes_starts_no_search(
    settings: Settings, api: ListenBrainzDouble
) -> None:
    api.add("Rob", [listen(int(time.time()) - 10, "Just now")])
    extract_listenbrainz(settings, ["rob"])
    api.miscount["rob"] = -1
    done = reconcile(settings)
    assert (done.difference, done.requests) == (-1, 1)
    assert "UTC: new there, and ListenBrainz' count is cached" in done.note


def test_a_count_that_does_not_know_a_new_users_first_listens_is_no_lost_history(
    settings: Settings, api: ListenBrainzDouble
) -> None:
    api.add("ann", [listen(int(time.time()) - 10)])
    extract_listenbrainz(settings, ["ann"])
    api.miscount["ann"] = -1
    [done] = reconcile_listenbrainz(settings, ["ann"])
    assert (done.error, done.difference, done.tombstones) == (None, -1, 0)


def test_a_count_that_is_off_is_explained_and_not_searched_for_again(
    settings: Settings, api: ListenBrainzDouble
) -> None:
    api.miscount["rob"] = 3
    done = reconcile(settings)
    assert (done.difference, done.windows) == (3, 3)
    assert "3 in no window: every window was compared just now (3 from 1970-01-01 00:00:01 to " in done.note
    done = reconcile(settings)
    assert (done.difference, done.requests) == (3, 1)
    assert done.note.startswith("3 in no window: as before")
    api.remove("Rob", at(3))
    assert reconcile(settings).tombstones == 1
    api.miscount.clear()
    assert (reconcile(settings).note, reconcile(settings).requests) == ("", 1)


def test_a_wiped_history_stays_until_it_is_confirmed(settings: Settings, api: ListenBrainzDouble) -> None:
    api.wipe("Rob")
    done = reconcile(settings)
    assert isinstance(done.error, ReconciliationError)
    assert "--confirm" in str(done.error)
    assert len(live_rows(settings)) == LISTENS
    done = reconcile(settings, confirm=True)
    assert (done.error, done.held, done.tombstones) == (None, 0, LISTENS)
    assert live_rows(settings) == {}
    assert reconcile(settings).requests == 1


def test_pages_that_show_nothing_are_not_believed_though_the_count_is_as_ever(
    settings: Settings, api: ListenBrainzDouble
) -> None:
    api.wipe("Rob")
    api.miscount["rob"] = LISTENS
    assert isinstance(reconcile(settings, is_full=True).error, ReconciliationError)
    assert len(live_rows(settings)) == LISTENS


def test_a_renamed_user_is_explained_and_nothing_is_deleted(settings: Settings, api: ListenBrainzDouble) -> None:
    api.rename("Rob", "Bob")
    done = reconcile(settings)
    assert isinstance(done.error, UnknownUserError)
    assert "no user 'Rob' any more: renamed or deleted there" in str(done.error)
    with pytest.raises(UnknownUserError, match="any more: renamed"):
        extract_listenbrainz(settings, ["rob"])
    assert len(live_rows(settings)) == LISTENS
    [done] = reconcile_listenbrainz(settings, None)  # not asked for: no error
    assert (done.error, done.note[:26]) == (None, "ListenBrainz has no user 'Ro"[:26])
    extract_listenbrainz(settings, ["bob"])
    assert [one.requests for one in reconcile_listenbrainz(settings, ["bob"])] == [1]
    assert done.note.endswith("see docs/reconciliation.md, so that nothing counts twice")
    forget(settings, "Rob")
    assert query(settings, "select user_name, count(*) from raw.listens group by 1") == [("Bob", LISTENS)]
    assert [one.requests for one in reconcile_listenbrainz(settings, None)] == [1]


def test_another_case_of_the_name_is_the_same_user(settings: Settings, api: ListenBrainzDouble) -> None:
    api.rename("Rob", "ROB")
    extract_listenbrainz(settings, ["rob"])
    api.remove("ROB", at(9))
    done = reconcile(settings, is_full=True)
    assert (done.user_name, done.held, done.difference) == ("ROB", LISTENS - 1, 0)
    assert_raw_is_as_shown(settings, api, "ROB")


def test_what_fails_in_the_middle_lands_nothing_and_stops_no_other_user(
    settings: Settings, api: ListenBrainzDouble
) -> None:
    api.add("ann", [listen(NOW - DAY)])
    api.add("Rob", [listen(at(2_000) + 1, "Late")])
    api.fault = lambda _, path, query: Fault("status", 503) if "rob" in path.lower() and "max_ts" in query else None
    before = live_rows(settings)
    rob, ann = reconcile_listenbrainz(settings, ["rob", "ann"])
    assert isinstance(rob.error, ExternalAPIError)
    assert (rob.landed.listens, ann.error, ann.landed.listens) == (0, None, 1)
    assert {key: rows for key, rows in live_rows(settings).items() if key in before} == before
    api.fault = None
    execute(settings, "delete from raw.listens where user_name = 'ann'")
    assert reconcile(settings).landed.listens == 1
    assert_raw_is_as_shown(settings, api)
