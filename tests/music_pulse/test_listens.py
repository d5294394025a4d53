"""What is taken as a listen, what is refused and why, and JSON that survives the trip to Postgres."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from music_pulse import listens
from music_pulse.listens import Listen, RefusedListen, escaped, from_json, to_json, uuid_bytes, validate, validate_line

NOW = 1_700_000_000.5
MSID = "0123abcd-0000-4000-8000-00000000ffff"
MBID = "ffffffff-0000-4000-8000-000000000001"

ANY_TEXT = st.text(st.characters(exclude_categories=()))


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Make JSON of these leaves."""
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )


EXACT_JSON = nested(st.none() | st.booleans() | st.integers(-(2**63), 2**63) | ANY_TEXT)
JSON = nested(st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | ANY_TEXT)


def sent(
    info: Any = None, mapping: Any = None, *, metadata: dict[str, Any] | None = None, **top: Any
) -> dict[str, Any]:
    """Return a good listen, with changes; a change to None takes the field out."""
    names = {"artist_name": "Björk", "track_name": "Jóga", "additional_info": info, "mbid_mapping": mapping}
    track = {name: value for name, value in (names | (metadata or {})).items() if value is not None}
    listen = {"user_name": "rob", "listened_at": 1_600_000_000, "track_metadata": track} | top
    return {name: value for name, value in listen.items() if value is not None}


def read(*arguments: Any, **fields: Any) -> Listen:
    return validate(sent(*arguments, **fields), now=NOW)


def test_a_plain_listen_becomes_a_row() -> None:
    assert read() == Listen(
        "rob", 1_600_000_000, "Björk", "Jóga", None, None, None, None, None, None, None, None, None, None
    )


def test_everything_that_a_listen_can_say_is_kept() -> None:
    info = {
        "duration_ms": 303_000,
        "recording_mbid": MBID,
        "release_mbid": MSID,
        "artist_mbids": [MBID],
        "submission_client": "navidrome",
        "tags": ["a"],
    }
    mapping = {"recording_mbid": MSID}
    album = {"release_name": " Homogenic "}
    assert read(info, mapping, metadata=album, recording_msid=MSID, inserted_at=1_600_000_001.5) == Listen(
        "rob",
        1_600_000_000,
        "Björk",
        "Jóga",
        " Homogenic ",
        303_000,
        uuid_bytes(MSID),
        uuid_bytes(MBID),
        uuid_bytes(MSID),
        f'["{MBID}"]',
        "navidrome",
        to_json(info),
        to_json(mapping),
        1_600_000_001.5,
    )


@pytest.mark.parametrize(
    ("listen", "reason"),
    [
        *[(value, "not a JSON object") for value in (None, 5, "text", [], [{}], True)],
        ({}, "track_metadata is missing"),
        ({"track_metadata": []}, "track_metadata is missing"),
        (sent(listened_at=None), "listened_at is missing"),
        *[
            (sent(listened_at=value), "listened_at is not a number")
            for value in (True, False, "", "soon", "nan", "inf", [], {}, 1e300, -1e15, "1e400", "x" * 5000)
        ],
        *[
            (sent(listened_at=value), "listened_at is before 2002-10-01")
            for value in (0, -1, 1_033_430_399, 1_033_430_399.9, "1033430399", -(10**30))
        ],
        *[
            (sent(listened_at=value), "listened_at is in the future")
            for value in (1_700_003_601, 1_700_003_601.0, "1700003601", 1_600_000_000_000, 10**18)
        ],
        *[
            (sent(metadata={field: value}), f"{field} {complaint}")
            for field in ("artist_name", "track_name")
            for value, complaint in (
                ("", "is blank"),
                (" \t\u3000\x1f", "is blank"),
                ("a\0", "has a NUL or a lone surrogate"),
                ("\ud800", "has a NUL or a lone surrogate"),
                ("\udfff ", "has a NUL or a lone surrogate"),
                (5, "is not text"),
                (["a"], "is not text"),
                (False, "is not text"),
            )
        ],
        (
            {"listened_at": 1_600_000_000, "track_metadata": {"track_name": "a"}, "user_name": "b"},
            "artist_name is missing",
        ),
        (
            {"listened_at": 1_600_000_000, "track_metadata": {"artist_name": "a"}, "user_name": "b"},
            "track_name is missing",
        ),
        (sent(user_name=None), "user_name is missing"),
        (sent(user_name=""), "user_name is missing"),
        (sent(user_name=" "), "user_name is blank"),
        (sent(user_name=7), "user_name is not text"),
        (sent(user_name="a" * 256), "user_name is longer than 255 characters"),
        (sent(metadata={"release_name": "a\0"}), "release_name has a NUL or a lone surrogate"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_its_reason(listen: Any, reason: str) -> None:
    with pytest.raises(RefusedListen) as refused:
        validate(listen, now=NOW)
    assert str(refused.value) == reason


@pytest.mark.parametrize(
    ("value", "second"),
    [
        (1_033_430_400, 1_033_430_400),
        (1_700_003_600, 1_700_003_600),
        ("1600000000", 1_600_000_000),
        (" 1600000000.9 ", 1_600_000_000),
        (1_600_000_000.9, 1_600_000_000),
        ("1.6e9", 1_600_000_000),
    ],
)
def test_times_are_read_as_listenbrainz_reads_them(value: Any, second: int) -> None:
    assert read(listened_at=value).listened_at == second


def test_a_line_without_a_user_takes_the_given_one() -> None:
    assert validate(sent(user_name=None), now=NOW, user_name="ann").user_name == "ann"
    assert validate(sent(user_name=""), now=NOW, user_name="ann").user_name == "ann"
    assert validate(sent(), now=NOW, user_name="ann").user_name == "rob"


def test_names_are_kept_as_they_were_sent() -> None:
    name = " \u202eCafe\u0301 👩🏽 "
    assert read(metadata={"artist_name": name, "track_name": name})[2:4] == (name, name)
    assert len(read(metadata={"track_name": "x" * 100_000}).track_name) == 100_000


@pytest.mark.parametrize(
    ("info", "milliseconds"),
    [
        ({"duration_ms": 1}, 1),
        ({"duration_ms": "1500"}, 1500),
        ({"duration_ms": 1500.9}, 1500),
        ({"duration_ms": 2_073_600_000}, 2_073_600_000),
        ({"duration": 90}, 90_000),
        ({"duration": "90"}, 90_000),
        ({"duration": 90, "duration_ms": 5}, 5),
        *[
            ({"duration_ms": value}, None)
            for value in (0, -1, 0.9, 2_073_600_001, 10**40, "", "long", True, [], {}, float("nan"), float("inf"))
        ],
        ({"duration": 2_073_601}, None),
        ({"duration": -1}, None),
        ({"duration_ms": None, "duration": None}, None),
        ("not an object", None),
    ],
)
def test_a_length_is_known_or_it_is_not(info: Any, milliseconds: int | None) -> None:
    assert read(info).duration_ms == milliseconds


@pytest.mark.parametrize("album", ["", "  ", "\u3000", 5, [], {}, True])
def test_a_blank_album_is_unknown(album: Any) -> None:
    assert read(metadata={"release_name": album}).album is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (1_600_000_000, 1_600_000_000),
        ("1600000000.5", 1_600_000_000.5),
        *[(value, None) for value in (0, -5, 1, True, "soon", {}, 253_402_300_800, 1e14, 1e300, float("nan"))],
    ],
)
def test_a_time_of_receipt_that_no_clock_said_is_unknown(value: Any, seconds: float | None) -> None:
    assert read(inserted_at=value).inserted_at == seconds


@pytest.mark.parametrize(
    ("info", "mapping", "found"),
    [
        ({"recording_mbid": MBID}, {"recording_mbid": MSID}, MBID),
        ({"recording_mbid": "nonsense"}, {"recording_mbid": MSID}, MSID),
        ({"recording_mbid": ""}, {"recording_mbid": MSID}, MSID),
        ({}, {"recording_mbid": MSID.upper()}, MSID),
        ({"recording_mbid": 5}, None, None),
        ({"recording_mbid": 5}, [], None),
    ],
)
def test_a_submitted_mbid_goes_before_a_mapped_one(info: Any, mapping: Any, found: str | None) -> None:
    assert read(info, mapping).recording_mbid == (uuid_bytes(found) if found else None)


@pytest.mark.parametrize("place", ["listen", "metadata", "info"])
def test_the_msid_is_found_wherever_it_stands(place: str) -> None:
    listen = sent({})
    info = listen["track_metadata"]["additional_info"]
    {"listen": listen, "metadata": listen["track_metadata"], "info": info}[place]["recording_msid"] = MSID
    assert validate(listen, now=NOW).recording_msid == uuid_bytes(MSID)


@pytest.mark.parametrize(
    ("info", "kept"),
    [
        ({"duration_ms": 5, "submission_client": "x"}, None),  # all of it has columns
        ({"x": "\0"}, r'{"x":"\u0000"}'),
        ({"x": "\ud800"}, r'{"x": "\ud800"}'),
        ({"x": 2**70}, '{"x": 1180591620717411303424}'),
        ([1, 2], '{"additional_info":[1,2]}'),
        ("text", '{"additional_info":"text"}'),
        ([], '{"additional_info":[]}'),
        ({"b": 1, "a": 2}, '{"a":2,"b":1}'),
    ],
)
def test_additional_info_of_any_shape_is_kept_as_json(info: Any, kept: str | None) -> None:
    assert read(info).additional_info == kept


def test_a_client_name_is_made_storable() -> None:
    assert read({"submission_client": "a\0\ud800"}).submission_client == r"a\u0000\ud800"
    assert read({"submission_client": ["a"]}).submission_client is None


@given(JSON, JSON, JSON, JSON)
def test_any_json_is_either_a_listen_or_refused(one: Any, two: Any, three: Any, four: Any) -> None:
    for listen in (one, sent(one, two, inserted_at=three, recording_msid=four), sent(metadata={"release_name": one})):
        try:
            row = validate(listen, now=NOW)
        except RefusedListen:
            continue
        assert "\0" not in "".join(value for value in row if isinstance(value, str))


@given(JSON)
def test_json_is_storable_and_comes_back(value: Any) -> None:
    text = to_json(value)
    assert "\0" not in text
    text.encode()
    assert to_json(from_json(text)) == to_json(from_json(to_json(from_json(text))))


@given(EXACT_JSON)
def test_what_json_can_hold_comes_back_as_it_was(value: Any) -> None:
    assert from_json(to_json(value)) == value


@given(st.dictionaries(st.text(), st.integers()))
def test_the_order_of_fields_does_not_show(value: dict[str, int]) -> None:
    assert to_json(value) == to_json(dict(reversed(value.items())))


@pytest.mark.parametrize("levels", [10, 255, 500, 1000])
def test_what_can_be_decoded_can_be_written_however_deep(levels: int) -> None:
    limit = sys.getrecursionlimit()
    text = "[" * levels + "]" * levels
    assert to_json(from_json(text)) == text
    assert sys.getrecursionlimit() == limit


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 100_000 + "]" * 100_000, "", "{", b"\xff", '{"a": 1}x', "'a'"])
def test_what_is_not_json_is_a_value_error(text: bytes | str) -> None:
    with pytest.raises(ValueError, match="."):
        from_json(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a": "\\ud800"}', {"a": "\ud800"}),
        (b"[123456789012345678901234567890]", [123456789012345678901234567890]),
        ('"\\u0000"', "\0"),
    ],
)
def test_json_that_is_ugly_but_legal_is_read(text: bytes | str, value: Any) -> None:
    assert from_json(text) == value


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"plain", "plain"),
        ("é👩", "é👩"),
        (b"a\x00b", r"a\u0000b"),
        ("\ud800", r"\ud800"),
        (b"\xff\xc3\xa9", r"\xffé"),
        (b"\xed\xa0\x80", r"\xed\xa0\x80"),
    ],
)
def test_any_bytes_can_be_kept_as_text(payload: bytes | str, text: str) -> None:
    assert escaped(payload) == text


@given(st.binary())
def test_escaped_bytes_can_always_be_stored(payload: bytes) -> None:
    assert b"\0" not in escaped(payload).encode()


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (MSID, True),
        (MSID.upper(), True),
        (MSID.replace("-", ""), True),
        *[
            (value, False)
            for value in (None, 5, "", MSID + "0", MSID[:-1], MSID + "\n", "{" + MSID + "}", MSID.encode(), "g" * 32)
        ],
    ],
)
def test_a_uuid_is_its_text_form_only(value: Any, found: bool) -> None:
    assert uuid_bytes(value) == (bytes.fromhex(MSID.replace("-", "")) if found else None)


def test_remembered_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listens, "_GOOD_NAMES", 3)
    monkeypatch.setattr(listens, "_good_names", {})
    for number in range(10):
        assert read(metadata={"track_name": f"track {number}"}).track_name == f"track {number}"
        assert len(listens._good_names) <= 3


def sent_with_names(listen: Any) -> Any:
    """Give a listen what it can't be kept without."""
    metadata = listen["track_metadata"] if isinstance(listen["track_metadata"], dict) else {}
    names = {"artist_name": "Björk", "track_name": "Jóga", "release_name": "Homogenic"}
    return {**listen, "user_name": "rob", "listened_at": 1_600_000_000, "track_metadata": {**metadata, **names}}


def outcome(listen: Any) -> Listen | str:
    """Read a decoded listen, or say why it is refused."""
    try:
        return validate(listen, now=NOW, user_name="ann")
    except RefusedListen as error:
        return str(error)


def outcome_of_line(line: bytes) -> Listen | str:
    try:
        return Listen(*validate_line(line, now=NOW, user_name="ann"))
    except RefusedListen as error:
        return str(error)


VALUES = JSON | st.sampled_from([1_600_000_000, 1_600_000_000.5, "1600000000", "Björk", MSID, MBID, 0, ""])
INFO = st.dictionaries(
    st.sampled_from(["duration_ms", "duration", "recording_mbid", "artist_mbids", "recording_msid", "tags"]), VALUES
)
METADATA = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("artist_name", "track_name", "release_name", "recording_msid"), VALUES),
        "additional_info": INFO | VALUES,
        "mbid_mapping": INFO | VALUES,
    },
)
LISTENS = st.fixed_dictionaries(
    {"listened_at": st.just(1_600_000_000) | VALUES, "track_metadata": METADATA | VALUES},
    optional=dict.fromkeys(("user_name", "recording_msid", "inserted_at", "other"), VALUES),
)


@given(LISTENS)
def test_a_line_is_read_as_its_decoded_listen_is(listen: Any) -> None:
    line = json.dumps(listen).encode()
    assert outcome_of_line(line) == outcome(from_json(line))


@given(LISTENS.map(sent_with_names))
def test_a_line_that_is_kept_is_read_as_its_decoded_listen_is(listen: Any) -> None:
    line = json.dumps(listen).encode()
    assert isinstance(outcome_of_line(line), Listen)
    assert outcome_of_line(line) == outcome(from_json(line))
