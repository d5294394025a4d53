from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from doubles.listenbrainz import ListenBrainzDouble, listen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extract.listenbrainz.client import ListenBrainzClient
from extract.listenbrainz.windows import Interval, plan
from music_pulse.errors import ExternalAPIError

B = 1_600_000_000
DAY = 86_400


@pytest.fixture(scope="module")
def server() -> Iterator[ListenBrainzDouble]:
    with ListenBrainzDouble() as double:
        yield double


@pytest.fixture
def api(server: ListenBrainzDouble) -> ListenBrainzDouble:
    server.clear()
    return server


def client(api: ListenBrainzDouble, page_size: int = 1000) -> ListenBrainzClient:
    return ListenBrainzClient(api.url, attempts=1, page_size=page_size, sleep=lambda _: pytest.fail("slept"))


def read(api: ListenBrainzDouble, page_size: int, windows: list[Interval] | None = None) -> list[dict[str, Any]]:
    with client(api, page_size) as reader:
        bounds = reader.bounds("rob")
        asked = plan(bounds.oldest_ts, bounds.latest_ts, []) if windows is None else windows
        return [row for window in asked for page in reader.pages("rob", window) for row in page]


def counted(rows: list[dict[str, Any]]) -> Counter[str]:
    return Counter(json.dumps(row, sort_keys=True) for row in rows)


def asked_again(api: ListenBrainzDouble, **query: int) -> list[int]:
    answer = requests.get(f"{api.url}/1/user/rob/listens", params=query, timeout=10).json()
    return [row["listened_at"] for row in answer["payload"]["listens"]]


MONTH = 30 * DAY
# Steps between listens: ties, bursts, the seconds around a 30-day border, years.
STEPS = st.lists(
    st.sampled_from([0, 0, 0, 1, 1, 2, 60, DAY, MONTH - 2, MONTH - 1, MONTH, MONTH + 1, 30 * MONTH]),
    min_size=0,
    max_size=40,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, page_size=st.integers(2, 9))
def test_any_history_is_read_whole_and_once(api: ListenBrainzDouble, steps: list[int], page_size: int) -> None:
    api.clear()
    second, ties = B, 0
    listens = [listen(B, "Artist", "Track 0")]
    for number, step in enumerate(steps, start=1):
        # At most page_size - 1 listens a second: one more can't be told from a full page of it.
        ties = ties + 1 if step == 0 else 0
        if ties > page_size - 2:
            step, ties = 1, 0
        second += step
        listens.append(listen(second, f"Artist {number % 3}", f"Track {number}"))
    api.add("rob", listens)
    assert counted(read(api, page_size)) == counted(api.rows("rob"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seconds=st.lists(st.integers(0, 30), min_size=1, max_size=30),
    page_size=st.integers(2, 6),
)
def test_read_whole_or_failed_loudly(api: ListenBrainzDouble, seconds: list[int], page_size: int) -> None:
    api.clear()
    api.add("rob", [listen(B + second, track=f"Track {number}") for number, second in enumerate(seconds)])
    crowded = {B + second for second, rows in Counter(seconds).items() if rows >= page_size}
    try:
        rows = read(api, page_size)
    except ExternalAPIError as error:
        assert any(str(second) in str(error) for second in crowded)
    else:
        assert not crowded
        assert counted(rows) == counted(api.rows("rob"))


def test_a_window_holds_its_first_second_and_not_its_end(api: ListenBrainzDouble) -> None:
    api.add("rob", [listen(B + second) for second in range(10)])
    rows = read(api, 3, [(B + 2, B + 7)])
    assert sorted(row["listened_at"] for row in rows) == [B + second for second in range(2, 7)]


def test_an_empty_window_asks_nothing(api: ListenBrainzDouble) -> None:
    api.add("rob", [listen(B)])
    with client(api) as reader:
        assert list(reader.pages("rob", (B, B))) == []
    assert api.requests == []


def test_a_window_is_asked_with_both_bounds(api: ListenBrainzDouble) -> None:
    api.add("rob", [listen(B)])
    read(api, 1000, [(B - 5, B + 5)])
    assert api.requests[-1] == (
        "/1/user/rob/listens",
        {"min_ts": str(B - 6), "max_ts": str(B + 5), "count": "1000"},
    )


@pytest.mark.parametrize("first", [B - 5, B])
def test_a_full_page_of_one_second_fails_naming_it(api: ListenBrainzDouble, first: int) -> None:
    api.add("rob", [listen(first), *(listen(B, track=f"Track {number}") for number in range(3))])
    with pytest.raises(ExternalAPIError, match=rf"user 'rob' .*{B} \(2020-09-13 12:26:40 UTC\)") as caught:
        read(api, 3)
    assert "\n" not in str(caught.value)


def test_one_listen_fewer_than_a_page_in_one_second_is_read(api: ListenBrainzDouble) -> None:
    api.add("rob", [listen(B + second, track=f"{number}") for second in range(4) for number in range(4)])
    assert counted(read(api, 5)) == counted(api.rows("rob"))


def test_the_same_track_in_two_seconds_and_two_msids_in_one_are_all_kept(api: ListenBrainzDouble) -> None:
    api.add("rob", [listen(B + second, duration_ms=ms) for second in range(6) for ms in (1000, 2000)])
    assert counted(read(api, 3)) == counted(api.rows("rob"))


MALFORMED: list[dict[str, Any]] = [
    {"listened_at": str(B), "track_metadata": {"artist_name": "A", "track_name": "T"}},
    {"listened_at": None},
    {"listened_at": True},
    {"listened_at": B + 0.5, "recording_msid": "x"},
    {"listened_at": float("1e300")},
    {"track_metadata": []},
    {"listened_at": B + 10, "track_metadata": None, "recording_msid": None},
    {"listened_at": B + 10, "recording_msid": ["a"], "track_metadata": {"artist_name": "\x00"}},
    {"listened_at": B + 10, "track_metadata": {"artist_name": "\ud800", "track_name": "T"}},
]


@pytest.mark.parametrize("offset", [0, 10, 19])
@pytest.mark.parametrize("page_size", [4, 5, 7, 1000])
@pytest.mark.parametrize("row", MALFORMED, ids=str)
def test_malformed_rows_come_through_and_break_no_page(
    api: ListenBrainzDouble, row: dict[str, Any], page_size: int, offset: int
) -> None:
    api.add("rob", [listen(B + second, track=f"{number}") for second in range(20) for number in range(2)])
    at = row["listened_at"] if type(row.get("listened_at")) is int else B + offset
    api.add_raw("rob", row, at)
    assert counted(read(api, page_size)) == counted(api.rows("rob"))


def test_equal_rows_of_one_second_are_as_many_as_sent(api: ListenBrainzDouble) -> None:
    api.add("rob", [listen(B, track=track) for track in "ab"])
    for _ in range(3):
        api.add_raw("rob", {"listened_at": B + 1, "track_metadata": {}})
    assert counted(read(api, 4)) == counted(api.rows("rob"))


def test_a_1970_and_a_far_future_listen_are_read_where_they_lie(api: ListenBrainzDouble) -> None:
    for second in (1, B, 10 * B):
        api.add_raw("rob", {**listen(second), "user_name": "rob"})
    windows = [(0, 2), (B, B + 1), (10 * B, 10 * B + 1)]
    assert counted(read(api, 1000, windows)) == counted(api.rows("rob"))


def test_a_full_page_without_times_fails(api: ListenBrainzDouble) -> None:
    for number in range(3):
        api.add_raw("rob", {"listened_at": "soon", "number": number}, B)
    with pytest.raises(ExternalAPIError, match="without a usable time"):
        read(api, 3, [(B, B + 1)])


def test_rows_outside_the_range_are_an_error(api: ListenBrainzDouble) -> None:
    api.add("rob", [listen(B)])
    api.add_raw("rob", listen(B - 100), B)
    with pytest.raises(ExternalAPIError, match=f"outside the range .*{B - 100}"):
        read(api, 1000)


def test_a_listen_that_comes_late_into_the_shared_second_is_read(api: ListenBrainzDouble) -> None:
    api.add("rob", [listen(B + second) for second in range(4)])
    with client(api, 3) as reader:
        pages = reader.pages("rob", (B, B + 4))
        rows = next(pages)
        api.add("rob", [listen(B + 2, track="Late")])
        rows += [row for page in pages for row in page]
    assert counted(rows) == counted(api.rows("rob"))


def test_a_listen_deleted_between_pages_hides_no_other(api: ListenBrainzDouble) -> None:
    api.add("rob", [listen(B + second) for second in range(8)])
    with client(api, 3) as reader:
        pages = reader.pages("rob", (B, B + 8))
        rows = next(pages)
        api.remove("rob", B + 1)
        rows += [row for page in pages for row in page]
    assert sorted(row["listened_at"] - B for row in rows) == list(range(8))


def test_trap_min_ts_long_before_the_first_listen_finds_nothing(api: ListenBrainzDouble) -> None:
    api.add("rob", [listen(B + 60 * number) for number in range(10)])
    assert asked_again(api, min_ts=0) == []
    assert asked_again(api, min_ts=B - 31 * DAY) == []
    assert len(asked_again(api, min_ts=B - 29 * DAY)) == 10
    assert len(asked_again(api, min_ts=0, max_ts=2_000_000_000)) == 10


def test_trap_ties_are_lost_by_naive_paging(api: ListenBrainzDouble) -> None:
    api.add("rob", [listen(B, track=track) for track in "abc"])
    page = asked_again(api, count=2)
    assert page == [B, B]
    assert asked_again(api, max_ts=page[-1], count=2) == []


def test_trap_the_listen_just_thirty_days_back_is_skipped(api: ListenBrainzDouble) -> None:
    api.add("rob", [listen(B - days * DAY) for days in (1, 30, 31, 119, 120, 121)])
    shown = [(B - second) // DAY for second in asked_again(api, max_ts=B)]
    assert shown == [1, 31, 119, 121]
    assert counted(read(api, 1000)) == counted(api.rows("rob"))


def test_trap_which_rows_a_page_holds_and_that_bounds_are_exclusive(api: ListenBrainzDouble) -> None:
    api.add("rob", [listen(B + 60 * number) for number in range(10)])

    def offsets(**query: int) -> list[int]:
        return [second - B for second in asked_again(api, **query)]

    assert offsets(count=3) == [540, 480, 420]
    assert offsets(max_ts=B + 120) == [60, 0]
    assert offsets(min_ts=B + 120, count=3) == [300, 240, 180]
    assert offsets(min_ts=B + 60, max_ts=B + 500, count=3) == [240, 180, 120]
    assert offsets(count=0) == []


def test_trap_count_is_clamped(api: ListenBrainzDouble) -> None:
    api.add("rob", [listen(B + second) for second in range(1001)])
    assert len(asked_again(api, count=5000)) == 1000
    assert len(asked_again(api)) == 25
    with pytest.raises(ValueError, match="page_size"):
        client(api, 1001)
    with pytest.raises(ValueError, match="page_size"):
        client(api, 1)


def test_trap_naive_paging_loses_what_windows_find(api: ListenBrainzDouble) -> None:
    api.add("rob", [listen(B + (n // 5) * 7 * DAY, track=f"{n}") for n in range(400)])
    naive: list[int] = []
    page = asked_again(api, count=7)
    while page:
        naive += page
        page = asked_again(api, count=7, max_ts=page[-1])
    assert len(naive) < 400
    assert counted(read(api, 7)) == counted(api.rows("rob"))
