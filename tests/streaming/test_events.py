from __future__ import annotations

import json
import uuid
from typing import Any

import fastavro
import pytest
from helpers import listen
from hypothesis import given
from hypothesis import strategies as st

from music_pulse import identity
from music_pulse.listens import RefusedListen, validate
from music_pulse.settings import load_settings
from streaming.client import JsonSerializer
from streaming.events import (
    SCHEMA_PATH,
    EventBuilder,
    ListenEvent,
    decode_event,
    event_key,
    event_serializer,
    from_avro,
    read_event,
    to_avro,
)

NOW = 1_800_000_000.0
MSID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"

FULL = {
    "user_name": "Rob",
    "listened_at": "1700000000",
    "inserted_at": 1700000003.7,
    "recording_msid": MSID.upper(),
    "track_metadata": {
        "artist_name": "Sigur Rós",
        "track_name": "Hoppípolla",
        "release_name": "Takk…",
        "additional_info": {"duration_ms": 268000, "nested": [{"any": None}], "odd\x00name": "\ud800"},
        "mbid_mapping": {"recording_mbid": MSID, "artist_mbids": [MSID]},
    },
}


def event_of(given_listen: Any) -> ListenEvent:
    events, refused = EventBuilder().build([given_listen], now=NOW)
    assert not refused
    return events[0]


def test_an_event_is_the_listen_with_its_ids_and_a_version() -> None:
    assert event_of(FULL) == {
        "version": 1,
        "listen_id": str(identity.listen_id("Rob", 1700000000, "Sigur Rós", "Hoppípolla")),
        "track_id": str(identity.track_id("Sigur Rós", "Hoppípolla")),
        "artist_id": str(identity.artist_id("Sigur Rós")),
        "user_key": "rob",
        "user_name": "Rob",
        "listened_at": 1700000000,
        "inserted_at": 1700000003,
        "recording_msid": MSID,
        "track_metadata": FULL["track_metadata"],
    }


def test_what_a_listen_lacks_its_event_lacks() -> None:
    event = event_of(listen(1700000000, album=" "))
    assert event.keys() == {
        "version", "listen_id", "track_id", "artist_id", "user_key", "user_name", "listened_at", "track_metadata",
    }  # fmt: skip
    assert event["track_metadata"] == {"artist_name": "Artist", "track_name": "Track"}


def test_the_key_is_the_user() -> None:
    assert event_key(event_of(listen(1700000000, user="Zoë"))) == "Zoë".encode()


def test_bad_listens_are_refused_with_a_reason_and_the_others_keep_their_order() -> None:
    good = [listen(1700000000 + second) for second in range(3)]
    bad = [{}, listen(5), "text"]
    events, refused = EventBuilder().build([good[0], bad[0], good[1], bad[1], bad[2], good[2]], now=NOW)
    assert [event["listened_at"] for event in events] == [1700000000, 1700000001, 1700000002]
    assert refused == [
        (bad[0], "track_metadata is missing"),
        (bad[1], "listened_at is before 2002-10-01"),
        (bad[2], "not a JSON object"),
    ]


def test_a_user_stands_in_where_a_listen_names_none() -> None:
    events, _ = EventBuilder().build([listen(1700000000, user=None)], now=NOW, user_name="Ann")
    assert (events[0]["user_name"], events[0]["user_key"]) == ("Ann", "ann")


def test_reading_gives_the_listen_that_was_validated_and_the_ids_as_sent() -> None:
    event = event_of(FULL)
    event["track_id"] = str(uuid.UUID(int=7))  # not derived anew
    received = read_event(JsonSerializer().deserialize(JsonSerializer().serialize(event)), now=NOW)
    expected = validate(FULL, now=NOW)
    assert received.listen == expected._replace(inserted_at=1700000003.0)
    assert received.listen_id == uuid.UUID(event["listen_id"]).bytes
    assert received.track_id == bytes(15) + b"\x07"
    assert received.artist_id == uuid.UUID(event["artist_id"]).bytes
    assert received.user_key == "rob"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": None}, "version is missing"),
        ({"version": 2}, "version is unknown"),
        ({"version": "1"}, "version is unknown"),
        ({"version": True}, "version is unknown"),
        ({"listen_id": "no"}, "listen_id is not a UUID"),
        ({"track_id": None}, "track_id is not a UUID"),
        ({"artist_id": 5}, "artist_id is not a UUID"),
        ({"user_key": ""}, "user_key is missing"),
        ({"user_name": None}, "user_name is missing"),
        ({"listened_at": 5}, "listened_at is before 2002-10-01"),
        ({"track_metadata": []}, "track_metadata is missing"),
    ],
)
def test_a_broken_event_is_refused_with_a_stable_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(RefusedListen) as caught:
        read_event({**event_of(FULL), **change}, now=NOW)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"{", "can't be decoded"),
        (b"\x00\x00\x00\x00\x01rest", "can't be decoded"),
        (b"[]", "not a JSON object"),
    ],
)
def test_bytes_that_are_no_event_are_refused(value: bytes | None, reason: str) -> None:
    with pytest.raises(RefusedListen) as caught:
        decode_event(value, JsonSerializer(), now=NOW)
    assert str(caught.value) == reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.sampled_from(["\ud800", "a\x00"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
LISTENS = st.builds(
    listen,
    st.integers(1_100_000_000, 1_700_000_000),
    st.text(min_size=1).filter(lambda name: name.strip() and "\x00" not in name),
    st.text(min_size=1).filter(lambda name: name.strip() and "\x00" not in name),
    album=st.none() | st.just("Album"),
)


@given(LISTENS, JSON, st.dictionaries(st.text(), JSON, max_size=3))
def test_any_listen_comes_through_json_and_avro_as_it_was(bare: Any, info: Any, mapping: Any) -> None:
    bare["track_metadata"] |= {"additional_info": info, "mbid_mapping": mapping}
    event = event_of(bare)
    expected = validate(bare, now=NOW)
    serializer = JsonSerializer()
    assert decode_event(serializer.serialize(event), serializer, now=NOW).listen == expected
    assert from_avro(to_avro(event)) == event
    assert read_event(from_avro(to_avro(event)), now=NOW).listen == expected


def test_an_event_fits_the_avro_schema_whole() -> None:
    schema = fastavro.parse_schema(json.loads(SCHEMA_PATH.read_text(encoding="utf-8")))
    for given_listen in (FULL, listen(1700000000)):
        record = to_avro(event_of(given_listen))
        assert fastavro.validate(record, schema)
        assert record.keys() <= {field["name"] for field in schema["fields"]}  # type: ignore[call-overload,index]


def test_json_is_the_default_on_the_wire() -> None:
    assert isinstance(event_serializer(load_settings()), JsonSerializer)
