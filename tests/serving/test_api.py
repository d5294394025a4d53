"""The read API: types, pages, ranges, ETags; on the marts of a small history."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from helpers import execute
from prometheus_client import CollectorRegistry

from music_pulse.settings import Settings
from serving.app import Ingest, create_app
from serving.tokens import create_token

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def client(marts: Settings) -> Iterator[TestClient]:
    app = create_app(marts, Ingest(lambda _: [], lambda: "nowhere"), marts.home / "none", CollectorRegistry())
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


def get(client: TestClient, path: str, **parameters: Any) -> Any:
    response = client.get(f"/api/{path}", params=parameters)
    assert response.status_code == 200, response.text
    return response.json()


def test_status_says_what_is_built(client: TestClient) -> None:
    status = get(client, "status")
    assert status["version"]
    assert status["changed_at"]
    assert (status["pending_loads"], status["stream_committed_at"]) == (0, None)


def test_users_by_their_listens(client: TestClient) -> None:
    page = get(client, "users")
    assert page["next_offset"] is None
    assert [list(user.values()) for user in page["items"]] == [
        ["ann", 69, 236.0, "2019-07-01", "2019-08-10"],
        ["bob", 2, pytest.approx(1 / 60000), "2019-08-10", "2020-08-04"],
    ]


def test_an_overview(client: TestClient) -> None:
    assert get(client, "overview", user="ann", range="all") == {
        "first_day": "2019-07-01",
        "last_day": "2019-08-10",
        "listens": 69,
        "minutes_listened": 236.0,
        "listens_without_duration": 0,
        "tracks": 16,
        "artists": 4,
        "new_artists": 4,
        "sessions": 69,
        "days_with_listens": 4,
    }


@pytest.mark.parametrize(
    ("asked", "days"),
    [
        ({"user": "ann", "range": "day"}, ("2019-08-10", "2019-08-10")),
        ({"user": "ann", "range": "week"}, ("2019-08-04", "2019-08-10")),
        ({"user": "ann"}, ("2019-07-12", "2019-08-10")),
        ({"user": "ann", "range": "month", "to": "2019-07-31"}, ("2019-07-02", "2019-07-31")),
        ({"range": "year"}, ("2019-08-06", "2020-08-04")),
        ({"range": "all"}, ("2019-07-01", "2020-08-04")),
        ({"user": "ann", "from": "2019-07-03", "to": "2019-07-05"}, ("2019-07-03", "2019-07-05")),
        ({"user": "ann", "from": "2019-07-03"}, ("2019-07-03", "2019-08-10")),
        ({"user": "ann", "range": "all", "to": "9999-12-31"}, ("2019-07-01", "2020-08-10")),
        ({"user": "ann", "from": "0001-01-01"}, ("2018-06-30", "2019-08-10")),
        ({"user": "ann", "range": "year", "to": "0001-01-01"}, ("2018-07-02", "2019-07-01")),
    ],
)
def test_ranges(client: TestClient, asked: dict[str, str], days: tuple[str, str]) -> None:
    found = get(client, "listens-over-time", **asked)
    assert (found["first_day"], found["last_day"]) == days


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("overview?user=nobody", 404),
        ("overview?from=2019-07-03&to=2019-07-02", 422),
        ("overview?range=decade", 422),
        ("overview?from=yesterday", 422),
        ("top/genres", 422),
        ("top/tracks?limit=0", 422),
        ("top/tracks?limit=501", 422),
        ("top/tracks?offset=-1", 422),
        ("heatmap/1999", 422),
        ("overview?user=%00", 400),
        (f"overview?user={'x' * 256}", 422),
    ],
)
def test_what_can_not_be_answered(client: TestClient, path: str, status: int) -> None:
    response = client.get(f"/api/{path}")
    assert (response.status_code, response.json()["code"]) == (status, status)
    assert response.json()["error"]


def test_pages_follow_each_other(client: TestClient) -> None:
    whole = get(client, "top/tracks", user="ann", range="all")
    assert [row["rank"] for row in whole["items"]] == list(range(1, 17))
    assert whole["next_offset"] is None
    rows, offset = [], 0
    while offset is not None:
        page = get(client, "top/tracks", user="ann", range="all", limit=5, offset=offset)
        rows += page["items"]
        offset = page["next_offset"]
    assert rows == whole["items"]
    assert [row["listens"] for row in rows] == sorted((row["listens"] for row in rows), reverse=True)


def test_the_best_of_each_kind(client: TestClient) -> None:
    def first(kind: str, **asked: str) -> Any:
        best = get(client, f"top/{kind}", range="all", limit=1, **asked)["items"][0]
        return best["name"], best["artist_name"], best["listens"], best["minutes_listened"]

    assert first("tracks") == ("夜", "東京事変", 9, 36.0)
    assert first("artists", user="bob")[2:] == (1, pytest.approx(1 / 60000))
    assert first("albums") == ("教育", "東京事変", 9, 36.0)
    assert get(client, "top/albums", user="bob", range="all")["items"] == []


def test_buckets_without_listens_are_there(client: TestClient) -> None:
    days = get(client, "listens-over-time", user="ann", **{"from": "2019-07-03", "to": "2019-07-05"})
    assert days["bucket"] == "day"
    assert [(bar["day"], bar["listens"]) for bar in days["bars"]] == [
        ("2019-07-03", 12), ("2019-07-04", 0), ("2019-07-05", 0),
    ]  # fmt: skip
    months = get(client, "listens-over-time", user="ann", range="all", bucket="month")
    assert [(bar["day"], bar["listens"]) for bar in months["bars"]] == [("2019-07-01", 60), ("2019-08-01", 9)]
    assert len(get(client, "heatmap/2020")["bars"]) == 366


def test_hours_streaks_sessions_and_discoveries(client: TestClient) -> None:
    clock = get(client, "clock", user="ann", **{"from": "2019-07-03", "to": "2019-07-03"})
    assert [(cell["weekday"], cell["hour"], cell["listens"]) for cell in clock] == [(3, hour, 1) for hour in range(12)]
    assert get(client, "streaks", user="ann", range="all")["items"] == [
        {"first_day": "2019-07-01", "last_day": "2019-07-03", "days": 3},
        {"first_day": "2019-08-10", "last_day": "2019-08-10", "days": 1},
    ]
    newest = get(client, "streaks", user="ann", range="all", order="newest", limit=1)
    assert (newest["items"][0]["days"], newest["next_offset"]) == (1, 1)
    [session] = get(client, "sessions", user="bob", range="day")["items"]
    assert (session["started_at"], session["ended_at"], session["listens"]) == (
        "2020-08-04T00:00:00Z", "2020-08-04T00:00:00Z", 1,
    )  # fmt: skip
    found = get(client, "discoveries", user="ann", range="all", limit=1)["items"]
    assert [(each["name"], each["first_day"]) for each in found] == [("東京事変", "2019-08-10")]


def test_trending_has_the_windows_before(client: TestClient, marts: Settings) -> None:
    empty = {"window_start": None, "window_end": None, "items": [], "next_offset": None}
    assert get(client, "trending") == empty
    execute(
        marts,
        """
        insert into raw.trending_windows
        select
            windows.start, windows.start + interval '5 minutes', 'track', entities.id, 'Artist', entities.name,
            windows.place * entities.factor, windows.place * entities.factor, now()
        from
            (
                select place, date_trunc('minute', now()) - (10 - place) * interval '5 minutes' as start
                from generate_series(1, 9) as places (place)
            ) as windows,
            (values
                ('00000000-0000-0000-0000-000000000001'::uuid, 'Hit', 2),
                ('00000000-0000-0000-0000-000000000002', 'Steady', 1)
            ) as entities (id, name, factor)
        """,
    )
    table = get(client, "trending", limit=1)
    assert table["next_offset"] == 1
    [first] = table["items"]
    assert (first["rank"], first["previous_rank"], first["name"], first["listeners"]) == (1, 1, "Hit", 18)
    assert first["history"] == [0] * 15 + [2 * place for place in range(1, 10)]
    assert get(client, "trending", limit=1, offset=1)["items"][0]["name"] == "Steady"
    assert get(client, "trending", kind="artist") == empty


def test_an_answer_holds_until_a_build_changes_the_marts(client: TestClient, marts: Settings) -> None:
    asked = "/api/top/tracks?range=all"
    first = client.get(asked)
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "private, no-cache"
    for known in (tag, f'"other", {tag}', tag.removeprefix("W/")):
        again = client.get(asked, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get("/api/status").headers["cache-control"] == "no-store"
    execute(marts, "insert into intermediate.int_built_changes (model_name, change_id) values ('user_sessions', now())")
    changed = client.get(asked, headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()) == (200, first.json())
    assert changed.headers["etag"] != tag


def test_it_describes_itself(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    paths = [path for path in described["paths"] if path.startswith("/api/")]
    assert {"/api/trending", "/api/top/{kind}", "/api/events", "/api/sessions"} <= set(paths)
    for path in paths:
        answer = described["paths"][path]["get"]["responses"]["200"]["content"]
        assert "text/event-stream" in answer or answer["application/json"]["schema"]


def test_before_the_first_build(warehouse: Settings) -> None:
    app = create_app(warehouse, Ingest(lambda _: [], lambda: "nowhere"), warehouse.home / "none", CollectorRegistry())
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert get(client, "status")["version"] is None
        assert client.get("/api/overview").status_code == 503
        assert get(client, "trending")["items"] == []
        assert client.get("/1/user/ann/playing-now").status_code == 503
        said = {
            "listen_type": "playing_now",
            "payload": [{"track_metadata": {"artist_name": "Can", "track_name": "Now"}}],
        }
        token = {"token": create_token(warehouse, "Ann")}
        assert client.post("/1/submit-listens", params=token, json=said).status_code == 200
        assert client.get("/1/user/ANN/playing-now").json()["payload"]["count"] == 1
