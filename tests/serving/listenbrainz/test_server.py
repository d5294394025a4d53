"""The whole server over HTTP, without a broker: clients, rules, limits, headers, and what is malformed."""

from __future__ import annotations

import gzip
import json
import random
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from datetime import date
from typing import Any
from urllib.parse import urlsplit

import liblistenbrainz
import pytest
import requests
import schemathesis
from helpers import MakeWarehouse, execute, query
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from liblistenbrainz.errors import InvalidAuthTokenException
from web_server import Serve, Site

from extract.listenbrainz import extract_listenbrainz
from extract.listenbrainz.client import ListenBrainzClient
from music_pulse import forget
from music_pulse.blocklist import block, unblock
from music_pulse.database import connect
from music_pulse.errors import ConfigurationError, DatabaseError, InputError
from music_pulse.identity import listen_id
from music_pulse.serve import create_token, run_server
from serving import server
from serving.app import Ingest
from serving.door import POLICY
from serving.listenbrainz import body as bodies
from serving.listenbrainz import ingest as listenbrainz_ingest
from serving.listenbrainz.stats import days_of
from serving.tokens import list_tokens, revoke_tokens

pytestmark = pytest.mark.integration

TIED = 1_500_000_000
SUBMITTED = 1_690_000_000


def listen(second: int, track: str = "Vitamin C", **info: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"artist_name": "Can", "track_name": track}
    if info:
        metadata["additional_info"] = info
    return {"listened_at": second, "track_metadata": metadata}


def single(one: dict[str, Any]) -> dict[str, Any]:
    return {"listen_type": "single", "payload": [one]}


def landed(site: Site, user: str = "ann") -> list[tuple[Any, ...]]:
    return query(
        site.settings,
        "select extract(epoch from listened_at)::bigint, track_name, source from raw.stream_listens"
        " where user_name = %s order by 1, 2",
        [user],
    )


# Reads


def seconds(response: requests.Response) -> list[int]:
    assert response.status_code == 200, response.text
    return [each["listened_at"] for each in response.json()["payload"]["listens"]]


def expected(site: Site, user: str) -> list[int]:
    rows = query(
        site.settings,
        "select extract(epoch from played_at_ts)::bigint from marts.listen_events where user_id = %s order by 1",
        [user],
    )
    return [second for (second,) in rows]


def test_our_own_client_reads_a_whole_history(site: Site, make_warehouse: MakeWarehouse) -> None:
    there = make_warehouse(listenbrainz_url=site.address)
    extract_listenbrainz(there, ["user_a", "tied"])
    held = query(
        there, "select distinct user_name, listen_id, track_id, artist_id, duration_ms from raw.listens order by 2"
    )
    served = query(
        site.settings,
        "select user_id, listen_id, track_id, artist_id, duration_ms from marts.listen_events"
        " where user_id in ('user_a', 'Tied') order by 2",
    )
    assert len(served) > 500
    assert held == served


@pytest.mark.parametrize("page_size", [8, 100])
def test_pages_lose_no_tie(site: Site, page_size: int) -> None:
    with ListenBrainzClient(site.address, page_size=page_size) as client:
        pages = list(client.pages("TIED", (TIED - 86_400 * 10, TIED + 86_400 * 10)))
    assert len([each for page in pages for each in page]) == 36


@pytest.mark.parametrize(
    ("query_", "picked"),
    [
        ("count=3", slice(-3, None)),
        ("", slice(-25, None)),
        ("count=", slice(-25, None)),
        ("count=0", slice(0, 0)),
        ("count=5000", slice(None)),
        ("count=5000&offset=7&from_ts=1", slice(None)),
        (f"count=1000&max_ts={TIED + 1}", slice(None, 8)),
        (f"count=2&max_ts={TIED + 1}", slice(6, 8)),
        (f"count=1000&min_ts={TIED}", slice(8, None)),
        (f"count=3&min_ts={TIED}", slice(8, 11)),
        ("count=3&min_ts=0", slice(0, 3)),
        (f"count=4&min_ts={TIED}&max_ts={TIED + 86_400}", slice(8, 12)),
        (f"count=1000&min_ts=-99999999999999999999&max_ts={10**30}", slice(None)),
        (f"max_ts={TIED - 500 * 86_400}", slice(0, 0)),
        (f"min_ts={TIED + 500 * 86_400}", slice(0, 0)),
    ],
)
def test_which_listens_a_page_holds(site: Site, query_: str, picked: slice) -> None:
    response = site.get(f"/1/user/tied/listens?{query_}")
    assert seconds(response) == expected(site, "Tied")[picked][::-1]
    payload = response.json()["payload"]
    assert (payload["user_id"], payload["count"]) == ("tied", len(payload["listens"]))
    assert (payload["oldest_listen_ts"], payload["latest_listen_ts"]) == (TIED - 400 * 86_400, TIED + 30 * 86_400)


def test_the_shape_of_a_listen(site: Site) -> None:
    [shown] = site.get("/1/user/Tied/listens?count=1").json()["payload"]["listens"]
    msid = shown["recording_msid"]
    assert shown == {
        "listened_at": TIED + 30 * 86_400,
        "inserted_at": 0,
        "recording_msid": msid,
        "user_name": "Tied",
        "track_metadata": {
            "artist_name": "Someone",
            "track_name": "A month later",
            "additional_info": {"recording_msid": msid},
        },
    }


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/1/user/nobody/listens", 404, "Cannot find user: nobody"),
        ("/1/user/nobody/listen-count", 404, "Cannot find user: nobody"),
        ("/1/user/no%00body/listens", 404, "Cannot find user: no\x00body"),
        ("/1/user/tied/listens?max_ts=1.5", 400, "Incorrect max_ts timestamp argument: 1.5"),
        ("/1/user/tied/listens?min_ts=", 400, "Incorrect min_ts timestamp argument: "),
        ("/1/user/tied/listens?count=x", 400, "Invalid count argument: x"),
        ("/1/user/tied/listens?count=-1", 400, "Number of items requested should be positive"),
        ("/1/user/tied/listens?min_ts=5&max_ts=5", 400, "max_ts should be greater than min_ts"),
        ("/1/stats/user/tied/artists?range=decade", 400, "Invalid range: decade"),
        ("/1/stats/user/tied/artists?count=-1", 400, "'count' should be a non-negative integer"),
        ("/1/stats/sitewide/artists?offset=x", 400, "'offset' should be a non-negative integer"),
        ("/1/stats/user/nobody/artists", 404, "Cannot find user: nobody"),
        ("/1/nothing", 404, "Not Found"),
    ],
)
def test_what_cannot_be_read(site: Site, path: str, status: int, words: str) -> None:
    response = site.get(path)
    assert (response.status_code, response.json()) == (status, {"code": status, "error": words})


def test_counts_and_odd_names(site: Site) -> None:
    for name in ("Tied", "tIED"):
        assert site.get(f"/1/user/{name}/listen-count").json() == {"payload": {"count": 38}}
    assert site.get("/1/user/a%2Fb%20c/listen-count").json() == {"payload": {"count": 1}}
    assert seconds(site.get("/1/user/A%2Fb%20c/listens")) == [TIED + 5]


def test_who_has_only_a_token_has_no_listens_yet(site: Site) -> None:
    payload = site.get("/1/user/Ann/listens").json()["payload"]
    assert (payload["count"], payload["latest_listen_ts"], payload["oldest_listen_ts"]) == (0, 0, 0)
    assert site.get("/1/stats/user/ann/artists").status_code == 204


def test_top_lists(site: Site) -> None:
    answer = site.get("/1/stats/user/tied/recordings?count=2&offset=1").json()["payload"]
    assert answer.pop("last_updated") > SUBMITTED
    assert {name: value for name, value in answer.items() if name != "recordings"} == {
        "total_recording_count": 13, "range": "all_time", "offset": 1, "count": 2, "user_id": "tied",
        "from_ts": answer["from_ts"], "to_ts": answer["to_ts"],
    }  # fmt: skip
    assert [each["listen_count"] for each in answer["recordings"]] == [7, 7]
    assert answer["recordings"][0].keys() == {
        "artist_mbids", "artist_name", "listen_count", "recording_mbid", "release_mbid", "release_name", "track_name",
    }  # fmt: skip
    [release] = site.get("/1/stats/user/tied/releases").json()["payload"]["releases"]
    assert (release["release_name"], release["listen_count"]) == ("Knots", 7)
    everybody = site.get("/1/stats/sitewide/artists?count=5000&range=all_time").json()["payload"]
    assert (everybody["count"], everybody["range"]) == (1000, "all_time")
    assert sum(each["listen_count"] for each in everybody["artists"]) <= sum(
        len(expected(site, user)) for user in ("user_a", "user_b", "user_c", "Tied", "a/b c")
    )


def test_answers_are_not_sent_twice(site: Site) -> None:
    first = site.get("/1/user/tied/listen-count")
    again = site.get("/1/user/tied/listen-count", headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("range_", "first", "last"),
    [
        ("this_week", date(2024, 5, 13), date(2024, 5, 15)),
        ("week", date(2024, 5, 6), date(2024, 5, 12)),
        ("this_month", date(2024, 5, 1), date(2024, 5, 15)),
        ("month", date(2024, 4, 1), date(2024, 4, 30)),
        ("quarter", date(2024, 1, 1), date(2024, 3, 31)),
        ("half_yearly", date(2023, 7, 1), date(2023, 12, 31)),
        ("this_year", date(2024, 1, 1), date(2024, 5, 15)),
        ("year", date(2023, 1, 1), date(2023, 12, 31)),
        ("all_time", date(2010, 2, 3), date(2024, 5, 15)),
    ],
)
def test_the_days_of_a_range(range_: str, first: date, last: date) -> None:
    assert days_of(range_, date(2010, 2, 3), date(2024, 5, 15)) == (first, last)


def test_on_its_first_day_a_range_is_the_one_before() -> None:
    assert days_of("this_week", date(2010, 2, 3), date(2024, 5, 13)) == (date(2024, 5, 6), date(2024, 5, 12))


# Submissions


def test_a_real_client_submits_and_reads(site: Site) -> None:
    client = liblistenbrainz.ListenBrainz(api_base_url=site.address)
    client.set_auth_token(site.token)
    one = liblistenbrainz.Listen(track_name="Halleluhwah", artist_name="Can", listened_at=SUBMITTED)
    assert client.submit_single_listen(one) == {"status": "ok"}
    many = [
        liblistenbrainz.Listen(track_name=f"Part {number}", artist_name="Can", listened_at=SUBMITTED + number)
        for number in range(1, 30)
    ]
    assert client.submit_multiple_listens(many) == {"status": "ok"}
    assert client.submit_multiple_listens(many) == {"status": "ok"}
    assert [row for row in landed(site) if SUBMITTED <= row[0] < SUBMITTED + 30] == [
        (SUBMITTED, "Halleluhwah", "stream"),
        *[(SUBMITTED + number, f"Part {number}", "stream") for number in range(1, 30)],
    ]
    client.submit_playing_now(liblistenbrainz.Listen(track_name="Now", artist_name="Can"))
    playing = client.get_playing_now("ann")
    assert (playing.track_name, playing.listened_at) == ("Now", None)
    assert [each.track_name for each in client.get_listens("Tied", count=2)] == ["A month later", "Track 1"]
    assert client.get_user_listen_count("tied") == 38
    assert client.get_user_artists("tied")["payload"]["artists"][0]["artist_name"] == "Artist"
    with pytest.raises(InvalidAuthTokenException):
        client.set_auth_token("not this")


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("//1/submit-listens", {}),
        ("/1//submit-listens", {}),
        ("///1///submit-listens", {}),
        ("/1/submit-listens", {"headers": {"Content-Type": "text/plain"}}),
        ("/1/submit-listens", {"headers": {"Content-Type": "application/x-www-form-urlencoded"}}),
        ("/1/submit-listens", {"headers": {"Authorization": "token {token}"}}),
        ("/1/submit-listens", {"headers": {"Authorization": "Bearer {token}"}}),
        ("/1/submit-listens?token={token}", {"headers": {"Authorization": None}}),
    ],
)
def test_it_is_as_tolerant_as_the_real_one(site: Site, path: str, options: dict[str, Any]) -> None:
    headers = {name: value and value.format(token=site.token) for name, value in options.get("headers", {}).items()}
    body = json.dumps(single(listen(SUBMITTED + 100))).encode()
    response = site.submit(body, path=path.format(token=site.token), headers=headers)
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("GZip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress)],
)
def test_packed_bodies(site: Site, encoding: str, pack: Any) -> None:
    body = pack(json.dumps(single(listen(SUBMITTED + 101))).encode())
    assert site.submit(body, headers={"Content-Encoding": encoding}).status_code == 200


@pytest.mark.parametrize(
    ("body", "encoding", "status", "words"),
    [
        (gzip.compress(b" " * 200_000_000, 9), "gzip", 400, bodies.TOO_LARGE),
        (b" " * 10_240_001, "identity", 400, bodies.TOO_LARGE),
        (b"{}", "gzip", 400, "The body isn't gzip, though Content-Encoding says so."),
        (gzip.compress(b"{}")[:-4], "gzip", 400, "The body was cut off."),
        (b"{}", "br", 415, "Content-Encoding br isn't understood: send gzip, or plain JSON."),
    ],
    ids=["bomb", "large", "no gzip", "cut", "brotli"],
)
def test_bodies_that_are_refused(site: Site, body: bytes, encoding: str, status: int, words: str) -> None:
    response = site.submit(body, headers={"Content-Encoding": encoding})
    assert (response.status_code, response.json()) == (status, {"code": status, "error": words})


def test_one_bad_listen_refuses_all(site: Site) -> None:
    before = landed(site)
    bad = listen(SUBMITTED + 201, recording_mbid="x")
    response = site.submit({"listen_type": "import", "payload": [listen(SUBMITTED + 200), bad]})
    assert response.status_code == 400
    assert response.json() == {**bad, "code": 400, "error": "recording_mbid MBID format invalid."}
    assert landed(site) == before


def test_a_repeat_leaves_no_trace(site: Site) -> None:
    assert site.submit(single(listen(SUBMITTED + 300, duration_ms=1000))).status_code == 200
    before = query(site.settings, "select * from raw.stream_listens order by 1")
    loads = query(site.settings, "select count(*) from raw.stream_loads")
    assert site.submit(single(listen(SUBMITTED + 300, duration_ms=1000))).status_code == 200
    assert query(site.settings, "select * from raw.stream_listens order by 1") == before
    assert query(site.settings, "select count(*) from raw.stream_loads") == loads


def test_a_listen_that_no_broker_could_take(site: Site) -> None:
    large = listen(SUBMITTED + 400, note="x" * 1_000_000)
    rest = [listen(SUBMITTED + 401 + number) for number in range(110)]
    response = site.submit({"listen_type": "import", "payload": [large, *rest]})
    assert (response.status_code, response.json()["code"]) == (400, 400)
    assert not [row for row in landed(site) if SUBMITTED + 400 <= row[0] < SUBMITTED + 600]


def test_it_is_busy_when_listens_can_not_be_stored(serve: Serve) -> None:
    def fails(_: Any) -> Any:
        raise DatabaseError("away")

    with serve(Ingest(fails, lambda: "nowhere")) as site:
        response = site.submit(single(listen(SUBMITTED)))
    words = "Cannot submit listens to queue, please try again later."
    assert (response.status_code, response.json()) == (503, {"code": 503, "error": words})


# Playing now


def playing(site: Site, user: str = "ann") -> list[str]:
    payload = site.get(f"/1/user/{user}/playing-now").json()["payload"]
    return [each["track_metadata"]["track_name"] for each in payload["listens"]]


def play(site: Site, track: str, **info: Any) -> None:
    now = listen(0, track, **info)
    del now["listened_at"]
    assert site.submit({"listen_type": "playing_now", "payload": [now]}).json() == {"status": "ok"}


def test_playing_now_is_shown_expires_and_is_never_a_listen(site: Site) -> None:
    before = landed(site)
    play(site, "First")
    play(site, "Odd \ud83c\udfb5", note="\ud800")
    assert playing(site) == ["Odd 🎵"]
    [(started, ends)] = query(site.settings, "select started_at, expires_at from app.playing_now")
    assert (ends - started).total_seconds() == 600
    play(site, "Odd 🎵")
    assert query(site.settings, "select started_at, expires_at from app.playing_now") == [(started, ends)]
    assert [each["track_name"] for each in site.get("/api/playing-now").json()] == ["Odd 🎵"]
    play(site, "Short", duration="100")
    [(seconds_,)] = query(site.settings, "select extract(epoch from expires_at - started_at)::int from app.playing_now")
    assert seconds_ == 100
    execute(site.settings, "update app.playing_now set expires_at = now()")
    assert playing(site) == []
    assert landed(site) == before


# Tokens


@pytest.mark.parametrize(
    ("headers", "status", "words"),
    [
        ({"Authorization": None}, 401, "You need to provide an Authorization header."),
        ({"Authorization": "justthis"}, 401, "Provided Authorization header is invalid."),
        ({"Authorization": "Token nonsense"}, 401, "Invalid authorization token."),
        ({"Authorization": "Token "}, 401, "Invalid authorization token."),
    ],
)
def test_who_has_no_token(site: Site, headers: dict[str, Any], status: int, words: str) -> None:
    response = site.submit(single(listen(SUBMITTED)), headers=headers)
    assert (response.status_code, response.json()) == (status, {"code": status, "error": words})


def test_validate_token(site: Site) -> None:
    valid = {"code": 200, "message": "Token valid.", "valid": True, "user_name": "ann"}
    assert site.get(f"/1/validate-token?token={site.token}").json() == valid
    assert site.get("/1/validate-token", headers={"Authorization": f"Token {site.token}"}).json() == valid
    invalid = site.get("/1/validate-token?token=x")
    assert (invalid.status_code, invalid.json()) == (200, {"code": 200, "message": "Token invalid.", "valid": False})
    none = site.get("/1/validate-token")
    words = "You need to provide an Authorization token."
    assert (none.status_code, none.json()) == (400, {"code": 400, "error": words})


def test_tokens_are_hashed_and_revoked_at_once(site: Site) -> None:
    first, second = create_token(site.settings, "Bob "), create_token(site.settings, "BOB")
    stored = repr(query(site.settings, "select * from app.tokens"))
    assert first not in stored
    assert second not in stored
    assert site.submit(single(listen(SUBMITTED + 500)), token=second).status_code == 200
    assert landed(site, "Bob") == [(SUBMITTED + 500, "Vitamin C", "stream")]
    assert [each.user_name for each in list_tokens(site.settings)] == ["ann", "Bob", "Bob"]
    assert revoke_tokens(site.settings, "bob") == 2
    assert site.submit(single(listen(SUBMITTED + 501)), token=first).status_code == 401
    with pytest.raises(InputError, match="no token"):
        revoke_tokens(site.settings, "bob")


@pytest.mark.parametrize("name", ["", " ", "x" * 256, "a\x00b", "\ud800"])
def test_names_that_get_no_token(site: Site, name: str) -> None:
    with pytest.raises(InputError, match="a user's name"):
        create_token(site.settings, name)


def test_who_was_forgotten_is_kept_out(site: Site) -> None:
    token = create_token(site.settings, "Eve")
    with connect(site.settings.credentials("admin")) as connection:
        named = forget._named_in(connection, lambda name: name.lower() == "eve")
    assert {column.table for column in named} == {"app.tokens"}
    with connect(site.settings.credentials("loader")) as connection:
        block(connection, site.settings, "eve")
    try:
        with pytest.raises(InputError, match="forgotten"):
            create_token(site.settings, "EVE")
        response = site.submit(single(listen(SUBMITTED)), token=token)
        assert response.status_code == 400
        words = "The listen can't be stored: this person was forgotten here, and is kept out"
        assert response.json()["error"] == words
        assert landed(site, "Eve") == []
        assert site.submit(single(listen(SUBMITTED + 600))).status_code == 200
    finally:
        with connect(site.settings.credentials("loader")) as connection:
            unblock(connection, site.settings, "eve")
        revoke_tokens(site.settings, "eve")


# Limits


def test_the_rate_limit_is_per_token_and_per_address(serve: Serve) -> None:
    with serve(serve_rate_limit=3) as site:
        while time.time() % 10 > 7:  # the window mustn't end meanwhile
            time.sleep(0.1)
        answers = [site.get("/1/user/tied/listen-count") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
        last = answers[-1]
        assert last.headers["X-RateLimit-Limit"] == "3"
        assert int(last.headers["X-RateLimit-Reset"]) % 10 == 0
        assert 1 <= int(last.headers["X-RateLimit-Reset-In"]) <= 10
        assert "Retry-After" not in last.headers
        assert last.json()["code"] == 429
        assert "You have exceeded your rate limit." in last.json()["error"]
        assert site.get("/api/users").status_code == 200
    with serve(serve_rate_limit=3) as site:
        while time.time() % 10 > 7:
            time.sleep(0.1)
        # Its first request counts for the address; the others are the token's own.
        assert [site.submit(single(listen(SUBMITTED))).status_code for _ in range(5)] == [200, 200, 200, 200, 429]
        assert site.get("/1/user/tied/listen-count").status_code == 200


def exchange(site: Site, sent: bytes) -> bytes:
    """Send raw bytes, then only read until the server ends it."""
    address = urlsplit(site.address)
    assert address.hostname
    assert address.port
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(sent)
        received = b""
        try:
            while more := connection.recv(65_536):
                received += more
        except ConnectionResetError:
            pass
        return received


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "])
def test_who_is_slow_to_ask_is_cut_off(site: Site, sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.3)
    assert exchange(site, sent) == b""


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999\r\n\r\n",
    ],
    ids=["head", "a body that nobody reads"],
)
def test_who_asks_byte_by_byte_is_cut_off(site: Site, head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.3)
    monkeypatch.setattr(server, "BODY_SECONDS", 0.3)
    address = urlsplit(site.address)

    def trickle(connection: socket.socket) -> None:
        connection.sendall(head)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            connection.sendall(b"x")
            time.sleep(0.05)

    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        with pytest.raises(OSError, match="reset|Broken pipe"):
            trickle(connection)


def test_a_head_without_end_is_cut_off(site: Site) -> None:
    assert exchange(site, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X-Long: yes\r\n" * 10_000) == b""


def test_who_is_slow_to_send_a_body_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.3)
    head = f"POST /1/submit-listens HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Token {site.token}\r\n"
    answer = exchange(site, f"{head}Content-Length: 100\r\nConnection: close\r\n\r\n{{".encode())
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"The body came too slowly." in answer


def test_who_does_not_read_is_cut_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "WRITE_SECONDS", 0.3)
    is_cut = threading.Event()
    cut = server.Protocol._cut
    monkeypatch.setattr(server.Protocol, "_cut", lambda protocol, why: (cut(protocol, why), is_cut.set()))
    address = urlsplit(site.address)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((address.hostname, address.port))
        connection.sendall(b"GET /docs/assets/redoc.standalone.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 50)
        assert is_cut.wait(30)
    assert site.get("/health/live").status_code == 200


# Security


@pytest.mark.parametrize(
    "path",
    ["/", "/docs", "/docs/assets/swagger-ui.css", "/docs/dbt/", "/api/users", "/1/user/tied/listens", "/1/nothing",
     "/nothing", "/health", "/health/live", "/metrics", "/openapi.json", "/docs/dbt/../../x"],
)  # fmt: skip
def test_every_answer_has_strict_headers(site: Site, path: str) -> None:
    headers = site.get(path).headers
    assert headers["Content-Security-Policy"] == POLICY
    assert "unsafe" not in POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Server" not in headers
    assert headers["Cache-Control"].startswith(("no-", "private"))
    assert (headers.get("Access-Control-Allow-Origin") == "*") == path.startswith("/1/")


def test_what_is_unforeseen_says_nothing_of_us(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any) -> Any:
        raise RuntimeError("a secret")

    monkeypatch.setattr(listenbrainz_ingest, "read_submission", breaks)
    answer = site.submit(single(listen(SUBMITTED)))
    assert (answer.status_code, answer.json()) == (500, {"code": 500, "error": "An unknown error occured."})
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "X-RateLimit-Remaining" in answer.headers


def test_cors_is_as_listenbrainz_has_it(site: Site) -> None:
    answer = requests.options(site.address + "/1/submit-listens", timeout=30)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Methods"] == "OPTIONS, POST"
    assert answer.headers["Access-Control-Allow-Headers"] == "Authorization, Content-Type"
    assert answer.headers["Access-Control-Max-Age"] == "21600"
    assert "Access-Control-Allow-Origin" not in requests.options(site.address + "/api/users", timeout=30).headers


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:80", 200), ("[::1]:8765", 200), ("evil.example", 400), ("127.0.0.1.evil", 400)],
)
def test_a_page_of_another_name_cannot_reach_it(site: Site, host: str, status: int) -> None:
    assert site.get("/api/users", headers={"Host": host}).status_code == status


def test_it_is_not_open_to_others_without_a_token(make_warehouse: MakeWarehouse) -> None:
    settings = make_warehouse().model_copy(update={"serve_host": "0.0.0.0", "serve_port": 0})
    with pytest.raises(ConfigurationError, match="pulse token create"):
        run_server(settings)


@pytest.mark.parametrize("text", ["' or 1=1 --", "%s", "\\", "'; drop table marts.tracks; --", "%(user)s", "💿"])
def test_no_name_is_read_as_sql(site: Site, text: str) -> None:
    for path in ("/1/user/{}/listens", "/1/stats/user/{}/artists", "/1/user/{}/playing-now"):
        response = site.get(path.format(requests.utils.quote(text, safe="")))
        assert response.json() == {"code": 404, "error": f"Cannot find user: {text}"}


# Operations


def test_health_names_each_part(site: Site) -> None:
    assert site.get("/health/live").json() == {"status": "ok"}
    answer = site.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert {name: part["ready"] for name, part in answer.json()["parts"].items()} == {
        "marts": True, "app": True, "ingest": True,
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/", "/health/live", "/api/users", "/1/user/tied/listen-count"])
def test_head_is_get_without_a_body(site: Site, path: str) -> None:
    with requests.Session() as session:
        for _ in range(2):  # a body that came nevertheless would be taken for the next answer
            head = session.head(site.address + path, timeout=30)
            assert (head.status_code, head.content) == (200, b"")
        assert head.headers["Content-Length"] == str(len(session.get(site.address + path, timeout=30).content))


def test_metrics_count_and_name_nobody(site: Site) -> None:
    site.submit(single(listen(SUBMITTED)))
    site.get("/1/user/tied/listens")
    text = site.get("/metrics").text
    assert 'pulse_ingest_listens_total{listen_type="single"}' in text
    assert 'route="/1/user/{user_name:path}/listens"' in text
    assert "tied" not in text


def test_the_dbt_docs(site: Site) -> None:
    before = site.get("/docs/dbt/")
    assert (before.status_code, "pulse docs" in before.text) == (404, True)
    folder = site.settings.home / "dbt" / site.settings.postgres_dbname
    page = folder / "index.html"
    page.write_text("<html><script>start()</script><script src='x.js'></script></html>")
    try:
        built = site.get("/docs/dbt")
        assert (built.status_code, built.url, built.text) == (200, site.address + "/docs/dbt/", page.read_text())
        # base64(sha256("start()"))
        assert "script-src 'self' 'sha256-" in built.headers["Content-Security-Policy"]
        assert "unsafe-eval" not in built.headers["Content-Security-Policy"]
        assert site.get("/docs/dbt/manifest.json").status_code == 200
        assert site.get("/docs/dbt/run_results.json").status_code == 404
    finally:
        page.unlink()


def test_a_database_that_goes_away_and_comes_back(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    admin = site.settings.credentials("admin")._replace(dbname="postgres")
    name = site.settings.postgres_dbname
    with connect(admin, autocommit=True) as connection:
        connection.execute(f"alter database {name} allow_connections false".encode())
        connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
        try:
            ready = site.get("/health")
            assert (ready.status_code, ready.json()["status"]) == (503, "unready")
            away = {"ready": False, "detail": "the database can't be reached"}
            ingest_away = {"ready": False, "detail": "listens can't be taken just now"}
            assert ready.json()["parts"] == {"marts": away, "app": away, "ingest": ingest_away}
            assert site.get("/health/live").status_code == 200
            read = site.get("/1/user/tied/listens")
            words = "The listen database is momentarily offline. Please wait a few minutes and try again."
            assert (read.status_code, read.json()) == (503, {"code": 503, "error": words})
            assert site.submit(single(listen(SUBMITTED + 700))).status_code == 503
        finally:
            connection.execute(f"alter database {name} allow_connections true".encode())
    deadline = time.monotonic() + 30
    while site.get("/health").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert site.submit(single(listen(SUBMITTED + 700))).status_code == 200
    assert (SUBMITTED + 700, "Vitamin C", "stream") in landed(site)
    assert not [record for record in caplog.records if record.name.startswith("psycopg")]


# What is malformed


CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")

JUNK: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    1e400,
    10**30,
    "",
    " ",
    "x",
    "\x00",
    "\ud800",
    "\u202e",
    [],
    {},
    [[]],
    {"": {}},
]


def mutated(dice: random.Random, value: Any, depth: int = 0) -> Any:
    """Change something somewhere in a document."""
    if isinstance(value, dict) and value and dice.random() < 0.85:
        name = dice.choice(list(value))
        changed = dict(value)
        act = dice.random()
        if act < 0.15:
            del changed[name]
        elif act < 0.25:
            changed[dice.choice(["listened_at", "user_name", "x", "\x00", "additional_info"])] = dice.choice(JUNK)
        else:
            changed[name] = mutated(dice, value[name], depth + 1)
        return changed
    if isinstance(value, list) and value and dice.random() < 0.85:
        changed_list = list(value)
        place = dice.randrange(len(value))
        changed_list[place] = mutated(dice, value[place], depth + 1)
        return changed_list * dice.choice([1, 1, 1, 2])
    return dice.choice(JUNK)


def malformed(count: int, seed: int) -> Iterator[bytes]:
    """Yield bodies that are nearly right, in their shape or in their bytes."""
    dice = random.Random(seed)
    for number in range(count):
        document: Any = {
            "listen_type": dice.choice(["single", "import", "playing_now"]),
            "payload": [
                listen(SUBMITTED + 10_000 + number * 3 + place, f"Fuzz {number}", duration_ms=1000, tags=["a"])
                for place in range(dice.choice([1, 1, 3]))
            ],
        }
        for _ in range(dice.choice([0, 1, 1, 2])):
            document = mutated(dice, document)
        body = json.dumps(document).encode()
        if dice.random() < 0.3:
            for _ in range(dice.randint(1, 3)):
                place = dice.randrange(len(body) + 1)
                act = dice.random()
                junk = bytes(dice.randrange(256) for _ in range(dice.randint(1, 4)))
                body = body[:place] + (junk if act < 0.7 else b"") + body[place + (act > 0.3) :]
        yield body


def test_thousands_of_malformed_bodies_break_nothing(site: Site) -> None:
    """Whatever is sent: never a 500, and stored is what was acknowledged, whole, and nothing else."""
    token = create_token(site.settings, "fuzz")
    acknowledged = set()
    statuses: dict[int, int] = {}
    with requests.Session() as session:
        session.headers["Authorization"] = f"Token {token}"
        for body in malformed(3000, seed=6):
            response = session.post(site.address + "/1/submit-listens", data=body, timeout=30)
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
            assert response.status_code in (200, 400), (body, response.text)
            if response.status_code == 200 and (document := json.loads(body))["listen_type"] != "playing_now":
                for each in document["payload"]:
                    names = (
                        each["track_metadata"]["artist_name"].strip(),
                        each["track_metadata"]["track_name"].strip(),
                    )
                    acknowledged.add(listen_id("fuzz", int(each["listened_at"]), *names))
    assert min(statuses[200], statuses[400]) > 300
    stored = query(site.settings, "select listen_id from raw.stream_listens where user_name = 'fuzz'")
    assert {each for (each,) in stored} == acknowledged


def test_the_api_is_as_it_describes_itself(site: Site) -> None:
    """Every operation, with made-up arguments: the status, type and shape are among those described; no 500."""
    described = schemathesis.openapi.from_url(site.address + "/openapi.json").exclude(path_regex="^/api/events")
    wanted = [schemathesis.checks.CHECKS.get_one(name) for name in CHECKS]
    operations = [found.ok() for found in described.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:

        @hypothesis_settings(
            max_examples=8, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.as_strategy())
        def holds(case: Any) -> None:
            case.call_and_validate(headers={"Authorization": f"Token {site.token}"}, checks=wanted)

        holds()
