"""Records become rows: each listen once, by what it says; what is no listen is refused with a reason."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from helpers import listen

from music_pulse.blocklist import Blocklist, keyed_hash
from streaming.client import JsonSerializer, Record
from streaming.events import EventBuilder
from streaming.listen_rows import ListenReader, StreamRow

SENT = 1_700_000_100
MAX_BYTES = 10_000

_offsets = itertools.count()


def event(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return the event of a listen of `helpers.listen`."""
    [built], refused = EventBuilder().build([listen(*args, **kwargs)], now=SENT)
    assert refused == []
    return dict(built)


def record(value: Any, *, sent: float = SENT) -> Record:
    """Return a record of an event, or of any bytes, that the broker got at `sent`."""
    content = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
    return Record("listens", 0, next(_offsets), int(sent * 1000), b"ann", content, [])


def read(*records: Record) -> tuple[list[StreamRow], list[str]]:
    rows, refused = ListenReader(JsonSerializer(), MAX_BYTES).read(records)
    return rows, [reason for _, reason in refused]


def test_every_column_of_a_full_event() -> None:
    given = listen(1_700_000_000, " Träck ", "ÄRTIST", user="Ann", album="Album", ms=180_000, inserted_at=1_700_000_003)
    given["recording_msid"] = "00000000-0000-0000-0000-00000000000a"
    given["track_metadata"]["additional_info"] |= {
        "recording_mbid": "00000000-0000-0000-0000-00000000000b",
        "release_mbid": "00000000-0000-0000-0000-00000000000c",
        "artist_mbids": ["x"],
        "submission_client": "client",
        "mood": "good",
    }
    given["track_metadata"]["mbid_mapping"] = {"caa_id": 1}
    [built], _ = EventBuilder().build([given], now=SENT)
    sent = Record("listens", 2, 7, 1_700_000_100_123, b"Ann", JsonSerializer().serialize(built), [])
    [row], [] = read(sent)
    assert row._asdict() == {
        "listen_id": built["listen_id"].replace("-", ""),
        "artist_id": built["artist_id"].replace("-", ""),
        "track_id": built["track_id"].replace("-", ""),
        "user_name": "Ann",
        "user_key": "ann",
        "listened_at": 1_700_000_000,
        "artist_name": "ÄRTIST",
        "track_name": " Träck ",
        "album": "Album",
        "artist_key": "ärtist",
        "track_key": "träck",
        "duration_ms": 180_000,
        "recording_msid": "0000000000000000000000000000000a",
        "recording_mbid": "0000000000000000000000000000000b",
        "release_mbid": "0000000000000000000000000000000c",
        "artist_mbids": '["x"]',
        "submission_client": "client",
        "additional_info": row.additional_info,
        "mbid_mapping": '{"caa_id":1}',
        "inserted_at": 1_700_000_003,
        "source": "stream",
        "origin": None,
        "payload_hash": row.payload_hash,
        "kafka_topic": "listens",
        "kafka_partition": 2,
        "kafka_offset": 7,
        "kafka_timestamp": 1_700_000_100_123,
    }
    assert json.loads(row.additional_info or "")["mood"] == "good"


@pytest.mark.parametrize(
    "better",
    [
        {"ms": 200_000},
        {"ms": 180_000, "album": "Album"},
        {"ms": 180_000, "album": "Album", "recording_msid": "00000000-0000-0000-0000-000000000001"},
    ],
)
@pytest.mark.parametrize("comes_first", [True, False])
def test_the_event_that_says_more_wins_and_the_place_of_the_first_stays(
    better: dict[str, Any], comes_first: bool
) -> None:
    worse = {
        "ms": {"ms": None},
        "album": {"ms": 180_000},
        "recording_msid": {
            "ms": 180_000, "album": "Album", "recording_msid": "00000000-0000-0000-0000-000000000002",
        },
    }[list(better)[-1]]  # fmt: skip
    pair = [event(1_700_000_000, **better), event(1_700_000_000, **worse)]
    records = [record(one) for one in (pair if comes_first else reversed(pair))]
    [row], [] = read(*records)
    assert (row.duration_ms, row.album) == (better["ms"], better.get("album"))
    assert row.recording_msid == (better["recording_msid"].replace("-", "") if "recording_msid" in better else None)
    assert row.kafka_offset == records[0].offset


def test_the_winner_does_not_depend_on_the_order() -> None:
    variants = [
        event(1_700_000_000, ms=ms, album=album, inserted_at=inserted)
        for ms, album, inserted in itertools.product((None, 1, 2), (None, "A"), (None, 1_700_000_001, 1_700_000_002))
    ]
    winners = set()
    for start in range(len(variants)):
        [row], [] = read(*map(record, variants[start:] + variants[:start]))
        winners.add((row.payload_hash, row.duration_ms, row.album))
    assert len(winners) == 1
    assert winners.pop()[1:] == (2, "A")


def test_listens_keep_the_order_of_their_first_events() -> None:
    events = [event(1_700_000_000, track) for track in "abacb"]
    rows, [] = read(*map(record, events))
    assert [row.track_name for row in rows] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"{", "can't be decoded"),
        (b"\xff", "can't be decoded"),
        (b"[]", "not a JSON object"),
        (b"{}", "version is missing"),
        (b"x" * (MAX_BYTES + 1), "larger than an event may be"),
        ({"version": 2}, "version is unknown"),
        ({"listen_id": "1"}, "listen_id is not a UUID"),
        ({"listen_id": "00000000-0000-0000-0000-000000000000"}, "listen_id is not the listen's"),
        ({"track_id": "00000000-0000-0000-0000-000000000000"}, "track_id is not the track's"),
        ({"artist_id": "00000000-0000-0000-0000-000000000000"}, "artist_id is not the artist's"),
        ({"user_key": "bob"}, "user_key is not the user's"),
        ({"listened_at": 1_700_000_001}, "listen_id is not the listen's"),
        ({"listened_at": None}, "listened_at is missing"),
        ({"track_metadata": {"artist_name": "Artist"}}, "track_name is missing"),
    ],
)
def test_what_is_no_listen_is_refused_and_the_rest_is_not(value: Any, reason: str) -> None:
    bad = {**event(1_700_000_000), **value} if isinstance(value, dict) else value
    rows, refused = read(record(event(1_700_000_000, "good")), record(bad))
    assert [row.track_name for row in rows] == ["good"]
    assert refused == [reason]


def test_the_future_is_seen_from_when_the_broker_got_the_event() -> None:
    built = event(1_700_003_000)
    assert read(record(built, sent=1_699_000_000))[1] == ["listened_at is in the future"]
    assert read(record(built, sent=1_700_000_000))[1] == []
    assert read(record(built, sent=-0.001))[1] == []


def test_what_is_of_somebody_blocked_is_neither_a_row_nor_refused() -> None:
    blocklist = Blocklist(b"secret", [keyed_hash(b"secret", "ann"), keyed_hash(b"secret", "Eve")])
    kept = record(event(1_700_000_000, user="Bob"))._replace(key=b"Bob")
    records = [
        kept,
        record(event(1_700_000_000, user=" EVE "))._replace(key=b"bob"),
        record(event(1_700_000_000, user="Bob"))._replace(key=b"ANN"),
        record(b"nothing of an event")._replace(key=b"Ann "),
        record(b"nothing of an event")._replace(key=None),
    ]
    rows, refused = ListenReader(JsonSerializer(), MAX_BYTES).read(records, blocklist)
    assert [row.user_name for row in rows] == ["Bob"]
    assert [refusal.record for refusal in refused] == [records[-1]]
