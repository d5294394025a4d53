from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from doubles.listenbrainz import FakeTime, Fault, ListenBrainzDouble, listen

from extract.listenbrainz.client import Bounds, ListenBrainzClient
from music_pulse import __version__
from music_pulse.errors import (
    ConfigurationError,
    ExternalAPIError,
    UnknownUserError,
    UnreachableAPIError,
)

B = 1_600_000_000
TOKEN = "0123abcd-secret-4567-89ef-token0token0"
HTML_502 = Fault("status", 502, "<html>\n<h1>502 Bad Gateway</h1>\n</html>", headers={"Content-Type": "text/html"})


@pytest.fixture(scope="module")
def server() -> Iterator[ListenBrainzDouble]:
    with ListenBrainzDouble() as double:
        yield double


@pytest.fixture
def clock() -> FakeTime:
    return FakeTime()


@pytest.fixture
def api(server: ListenBrainzDouble, clock: FakeTime) -> ListenBrainzDouble:
    server.clear()
    server.clock = clock
    server.add("Rob", [listen(B + 60 * number, track=f"Track {number}") for number in range(10)])
    return server


@pytest.fixture
def connect(api: ListenBrainzDouble, clock: FakeTime) -> Iterator[Callable[..., ListenBrainzClient]]:
    clients: list[ListenBrainzClient] = []

    def make(url: str = api.url, **options: Any) -> ListenBrainzClient:
        clients.append(ListenBrainzClient(url, **{"token": TOKEN, "sleep": clock.sleep, "clock": clock, **options}))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def rows(client: ListenBrainzClient, user: str = "rob") -> list[dict[str, Any]]:
    return [row for page in client.pages(user, (B, B + 1000)) for row in page]


def by_time(listens: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(listens, key=lambda row: int(row["listened_at"]))


# name: (fault, status of the error, what its text says)
FAULTS: dict[str, tuple[Fault, int | None, str]] = {
    "429 with headers": (
        Fault("status", 429, headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset-In": "7"}),
        429,
        "too many requests",
    ),
    "429 without headers": (Fault("status", 429), 429, "too many requests"),
    "429 with odd headers": (
        Fault("status", 429, headers={"X-RateLimit-Remaining": "?", "X-RateLimit-Reset-In": "-1.5"}),
        429,
        "too many requests",
    ),
    "500": (Fault("status", 500), 500, r"status 500 \(An unknown error occured\.\)"),
    "503": (Fault("status", 503, {"code": 503, "error": "offline"}), 503, r"status 503 \(offline\)"),
    "HTML 502": (HTML_502, 502, "status 502"),
    "error that shows the token": (
        Fault("status", 500, {"error": f"bad\nthing \x1b[31m {TOKEN}"}),
        500,
        r"bad thing \?\[31m \*\*\*",
    ),
    "cut-off body": (Fault("cut"), None, "cut off"),
    "cut-off chunks": (Fault("cut_chunked"), None, "cut off"),
    "connection reset": (Fault("reset"), None, "closed before the answer"),
    "invalid JSON": (Fault("invalid_json"), 200, "not JSON"),
    "HTML as 200": (Fault("invalid_json", body="<html></html>"), 200, "not JSON"),
    "empty 204": (Fault("status", 204, b""), 204, "not JSON"),
    "too deep JSON": (Fault("invalid_json", body="[" * 100_000), 200, "not JSON"),
    "undecodable bytes": (Fault("invalid_json", body=b'{"payload": "\xff"}'), 200, "not JSON"),
    "body that lies about gzip": (
        Fault("invalid_json", headers={"Content-Encoding": "gzip"}),
        None,
        "cut off",
    ),
    "JSON list": (Fault("other_shape"), 200, "another shape"),
    "JSON without payload": (Fault("other_shape", body={"error": "none"}), 200, "'payload'"),
    "payload without listens": (Fault("other_shape", body={"payload": {}}), 200, "'listens'"),
    "listens null": (Fault("other_shape", body={"payload": {"listens": None}}), 200, "'listens'"),
    "listens of text": (Fault("other_shape", body={"payload": {"listens": ["x"]}}), 200, "'listens'"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_passes_costs_no_row(
    api: ListenBrainzDouble, connect: Callable[..., ListenBrainzClient], name: str
) -> None:
    fault = FAULTS[name][0]
    api.fault = lambda index, path, query: fault if index % 2 == 0 else None
    assert by_time(rows(connect(page_size=4))) == api.rows("rob")


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_stays_ends_in_one_line(
    api: ListenBrainzDouble,
    connect: Callable[..., ListenBrainzClient],
    clock: FakeTime,
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fault, status, text = FAULTS[name]
    api.fault = lambda *_: fault
    with caplog.at_level(logging.DEBUG), pytest.raises(ExternalAPIError, match=text) as caught:
        rows(connect(attempts=6))
    assert len(api.requests) == 6
    assert len(clock.slept) == 5
    assert max(clock.slept) <= 60
    assert_one_line(caught.value, api)
    assert caught.value.status == status
    assert type(caught.value) is ExternalAPIError
    assert TOKEN not in caplog.text


def assert_one_line(error: ExternalAPIError, api: ListenBrainzDouble) -> None:
    message = str(error)
    assert message.isprintable()
    assert error.url.startswith(f"{api.url}/1/user/rob/")
    assert error.url in message
    assert "again" in message or "check" in message or "correct" in message
    chain: BaseException | None = error
    while chain is not None:
        assert TOKEN not in str(chain) + repr(chain) + str(vars(chain).get("url"))
        chain = chain.__cause__


@pytest.mark.parametrize("call", ["bounds", "listen_count"])
@pytest.mark.parametrize("name", ["JSON list", "JSON without payload", "payload without listens", "500"])
def test_the_other_calls_try_again_too(
    api: ListenBrainzDouble, connect: Callable[..., ListenBrainzClient], call: str, name: str
) -> None:
    api.faults.append(FAULTS[name][0])
    assert getattr(connect(), call)("rob") == {"bounds": Bounds("Rob", B, B + 540), "listen_count": 10}[call]
    assert len(api.requests) == 2


def test_a_count_that_is_no_number_is_no_answer(
    api: ListenBrainzDouble, connect: Callable[..., ListenBrainzClient]
) -> None:
    api.fault = lambda *_: Fault("other_shape", body={"payload": {"count": "10", "listens": []}})
    with pytest.raises(ExternalAPIError, match="'count'"):
        connect(attempts=2).listen_count("rob")
    with pytest.raises(ExternalAPIError, match="'oldest_listen_ts'"):
        connect(attempts=2).bounds("rob")


def test_a_hanging_server_ends_by_the_read_timeout(
    api: ListenBrainzDouble, connect: Callable[..., ListenBrainzClient]
) -> None:
    api.fault = lambda *_: Fault("hang")
    with pytest.raises(ExternalAPIError, match=r"nothing sent for 0\.05 s: .*READ_TIMEOUT") as caught:
        rows(connect(read_timeout=0.05, connect_timeout=30, attempts=4))
    assert_one_line(caught.value, api)
    assert type(caught.value) is ExternalAPIError
    assert len(api.requests) == 4


def test_a_server_that_hangs_once_costs_no_row(
    api: ListenBrainzDouble, connect: Callable[..., ListenBrainzClient]
) -> None:
    api.faults.append(Fault("hang"))
    assert by_time(rows(connect(read_timeout=0.3))) == api.rows("rob")


@pytest.fixture
def full_backlog() -> Iterator[str]:
    """Give the address of a listener that accepts nobody and whose queue is full: connecting to it hangs."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        for _ in range(8):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for filler in fillers:
            filler.close()


def test_no_connection_ends_by_the_connect_timeout(
    full_backlog: str, connect: Callable[..., ListenBrainzClient], clock: FakeTime
) -> None:
    with pytest.raises(UnreachableAPIError, match=r"3 times, .*no connection within 0\.05 s") as caught:
        rows(connect(full_backlog, connect_timeout=0.05, read_timeout=30))
    assert len(clock.slept) == 2
    assert caught.value.status is None
    assert str(caught.value).isprintable()


def closed_port() -> int:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


@pytest.mark.parametrize(("attempts", "tries"), [(1, 1), (2, 2), (6, 3)])
def test_a_refused_connection_is_unreachable_after_three_tries(
    connect: Callable[..., ListenBrainzClient], clock: FakeTime, attempts: int, tries: int
) -> None:
    with pytest.raises(UnreachableAPIError, match="refused.*PULSE_LISTENBRAINZ_URL"):
        rows(connect(f"http://127.0.0.1:{closed_port()}", attempts=attempts))
    assert len(clock.slept) == tries - 1


def test_a_name_that_does_not_resolve_is_unreachable(
    connect: Callable[..., ListenBrainzClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Patched: a real look-up would need a network, and could take as long as its resolver likes.
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UnreachableAPIError, match="Name or service not known"):
        rows(connect("http://listenbrainz.invalid"))


def test_a_connection_lost_after_answers_gets_every_try_and_is_no_unreachable_api(
    clock: FakeTime,
) -> None:
    with ListenBrainzDouble() as api:
        api.add("rob", [listen(B)])
        client = ListenBrainzClient(api.url, sleep=clock.sleep, clock=clock, attempts=5)
        assert client.listen_count("rob") == 1
        api.faults.append(Fault("reset"))  # ends the kept connection
        assert client.listen_count("rob") == 1
        clock.slept.clear()
        api.fault = lambda *_: Fault("reset")
    with client, pytest.raises(ExternalAPIError) as caught:
        client.listen_count("rob")
    assert type(caught.value) is ExternalAPIError
    assert len(clock.slept) == 4


@pytest.mark.parametrize("url", ["http://", "http://127.0.0.1:99999", "http://.example", "http://" + 70 * "a"])
def test_an_address_that_is_none(connect: Callable[..., ListenBrainzClient], url: str) -> None:
    with pytest.raises(ExternalAPIError, match="PULSE_LISTENBRAINZ_URL"):
        rows(connect(url))


def test_an_unknown_user_is_asked_for_once(api: ListenBrainzDouble, connect: Callable[..., ListenBrainzClient]) -> None:
    client = connect()
    for call in (client.listen_count, client.bounds, lambda user: rows(client, user)):
        with pytest.raises(UnknownUserError, match="has no user 'bor': check the spelling") as caught:
            call("bor")
        assert caught.value.status == 404
    assert len(api.requests) == 3


def test_another_site_is_not_an_unknown_user(
    api: ListenBrainzDouble, connect: Callable[..., ListenBrainzClient]
) -> None:
    api.faults.append(Fault("status", 404, "<html>Not here</html>"))
    with pytest.raises(ExternalAPIError, match="status 404: .*PULSE_LISTENBRAINZ_URL") as caught:
        rows(connect())
    assert not isinstance(caught.value, UnknownUserError)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault("status", 400, {"code": 400, "error": "Bad thing"}), r"status 400 \(Bad thing\)"),
        (Fault("status", 403, "no"), "status 403"),
        (Fault("status", 304, b""), "status 304"),
    ],
)
def test_other_refusals_are_not_tried_again(
    api: ListenBrainzDouble, connect: Callable[..., ListenBrainzClient], fault: Fault, text: str
) -> None:
    api.faults.append(fault)
    with pytest.raises(ExternalAPIError, match=text) as caught:
        rows(connect())
    assert_one_line(caught.value, api)
    assert len(api.requests) == 1


def test_a_wrong_token_names_its_setting(api: ListenBrainzDouble, connect: Callable[..., ListenBrainzClient]) -> None:
    api.token = "another"
    with pytest.raises(ExternalAPIError, match=r"401 .*PULSE_LISTENBRAINZ_TOKEN") as caught:
        rows(connect())
    assert_one_line(caught.value, api)
    assert len(api.requests) == 1


@pytest.mark.parametrize("token", ["tok\nen", "tokén", "a\x00b"])
def test_a_token_that_fits_no_header_is_refused_unseen(token: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ListenBrainzClient("http://127.0.0.1", token=token)
    assert token not in str(caught.value)


def test_the_token_is_sent_only_where_given(
    api: ListenBrainzDouble,
    connect: Callable[..., ListenBrainzClient],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password netrc-secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for token in (f" {TOKEN}\n", None, ""):
        connect(token=token).listen_count("rob")
    assert api.authorizations == [f"Token {TOKEN}", None, None]


def test_credentials_in_the_address_are_not_shown(
    api: ListenBrainzDouble, connect: Callable[..., ListenBrainzClient]
) -> None:
    api.fault = lambda *_: Fault("status", 500)
    with pytest.raises(ExternalAPIError) as caught:
        rows(connect(api.url.replace("//", "//me:hidden@"), attempts=1))
    assert "hidden" not in str(caught.value) + caught.value.url


def test_a_user_without_listens(api: ListenBrainzDouble, connect: Callable[..., ListenBrainzClient]) -> None:
    api.add("Nobody", [])
    client = connect()
    assert client.bounds("nobody") == Bounds("nobody", 0, 0)
    assert client.listen_count("nobody") == 0
    assert rows(client, "nobody") == []


@pytest.mark.parametrize("name", ["AC/DC fan", "ä%2Fö", "a?b#c", "100%", "..a", "q+p &x=1"])
def test_user_names_are_quoted(api: ListenBrainzDouble, connect: Callable[..., ListenBrainzClient], name: str) -> None:
    api.add(name, [listen(B)])
    assert connect().bounds(name.upper()) == Bounds(name, B, B)


def test_a_user_name_that_is_no_text_is_unknown(connect: Callable[..., ListenBrainzClient]) -> None:
    with pytest.raises(UnknownUserError):
        connect().bounds("rob\udc80")


def test_lone_surrogates_and_nul_arrive(api: ListenBrainzDouble, connect: Callable[..., ListenBrainzClient]) -> None:
    row = listen(B + 1, "\ud83d", "a\x00b")
    api.add_raw("rob", row)
    assert row in rows(connect())


def test_one_client_keeps_to_the_rate_limit_for_all_users(
    api: ListenBrainzDouble, connect: Callable[..., ListenBrainzClient], clock: FakeTime
) -> None:
    api.add("ann", [listen(B)])
    api.rate_limit = (3, 10)
    client = connect()
    for _ in range(10):
        client.listen_count("rob")
        client.listen_count("ann")
    assert len(api.requests) == 20  # none was refused
    assert clock.slept == [10.0] * 6


def test_the_rate_limit_is_waited_for_only_before_a_request(
    api: ListenBrainzDouble, connect: Callable[..., ListenBrainzClient], clock: FakeTime
) -> None:
    api.rate_limit = (1, 10)
    client = connect()
    client.listen_count("rob")
    assert clock.slept == []
    clock.now += 4
    client.listen_count("rob")
    assert clock.slept == [6.0]


def test_429_waits_as_long_as_it_says(
    api: ListenBrainzDouble, connect: Callable[..., ListenBrainzClient], clock: FakeTime
) -> None:
    api.faults += [FAULTS["429 with headers"][0]] * 2
    connect().listen_count("rob")
    assert clock.slept == [7.0, 7.0]


def test_others_on_this_address_may_use_up_the_quota(
    api: ListenBrainzDouble, connect: Callable[..., ListenBrainzClient], clock: FakeTime
) -> None:
    api.rate_limit = (1, 10)
    connect().listen_count("rob")
    connect().listen_count("rob")  # knows nothing of the first
    assert clock.slept == [10.0]
    assert len(api.requests) == 3


def test_an_absurd_rate_limit_does_not_stop_a_run(
    api: ListenBrainzDouble, connect: Callable[..., ListenBrainzClient], clock: FakeTime
) -> None:
    api.faults.append(Fault("status", 429, headers={"X-RateLimit-Reset-In": "99999999"}))
    connect().listen_count("rob")
    assert clock.slept == [300.0]


def test_back_off_grows_to_a_minute_with_full_jitter(
    api: ListenBrainzDouble,
    connect: Callable[..., ListenBrainzClient],
    monkeypatch: pytest.MonkeyPatch,
    clock: FakeTime,
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high - low)
    api.fault = lambda *_: Fault("status", 503)
    with pytest.raises(ExternalAPIError):
        rows(connect(attempts=9))
    assert clock.slept == [2, 4, 8, 16, 32, 60, 60, 60]


def test_the_client_says_who_it_is_and_keeps_its_connection(
    api: ListenBrainzDouble, connect: Callable[..., ListenBrainzClient]
) -> None:
    client = connect()
    assert client._session.headers["User-Agent"] == f"music-pulse/{__version__}"
    assert TOKEN not in json.dumps(repr(client))
    with pytest.raises(ValueError, match="attempts"):
        connect(attempts=0)
