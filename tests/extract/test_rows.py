"""Listens into Arrow rows: what lands, what goes to quarantine, what is passed over."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import md5
from typing import Any

import pyarrow as pa
import pytest

from extract import rows
from extract.rows import LISTENS_SCHEMA, QUARANTINE_SCHEMA, RowBuilder, timestamps
from music_pulse.identity import artist_id, listen_id, track_id
from music_pulse.listens import to_json

NOW = 1_700_000_000.5
GOOD: dict[str, Any] = {
    "user_name": "rob",
    "listened_at": 1_600_000_000,
    "inserted_at": 1_600_000_001.9,
    "track_metadata": {"artist_name": "Björk", "track_name": " Jóga", "additional_info": {"duration_ms": 5}},
}
LINE = json.dumps(GOOD).encode()


def builder(**fields: Any) -> RowBuilder:
    return RowBuilder("test", **{"clock": lambda: NOW, **fields})


def test_a_line_becomes_a_row_with_its_ids() -> None:
    collected = builder(origin="file")
    collected.add_lines([LINE])
    taken = collected.take()
    assert taken.quarantine.num_rows == 0
    [row] = taken.listens.to_pylist()
    assert row == {
        "listen_id": listen_id("rob", 1_600_000_000, "Björk", "Jóga").bytes,
        "artist_id": artist_id("Björk").bytes,
        "track_id": track_id("Björk", "Jóga").bytes,
        "user_name": "rob",
        "listened_at": datetime(2020, 9, 13, 12, 26, 40, tzinfo=UTC),
        "artist_name": "Björk",
        "track_name": " Jóga",
        "album": None,
        "artist_key": "björk",
        "track_key": "jóga",
        "duration_ms": 5,
        "played_ms": None,
        "recording_msid": None,
        "recording_mbid": None,
        "release_mbid": None,
        "artist_mbids": None,
        "submission_client": None,
        "additional_info": None,
        "mbid_mapping": None,
        "inserted_at": datetime(2020, 9, 13, 12, 26, 41, tzinfo=UTC),
        "source": "test",
        "origin": "file",
        "payload_hash": md5(LINE).digest(),
    }
    assert taken.listens.schema == LISTENS_SCHEMA


@pytest.mark.parametrize(
    ("line", "reason", "payload"),
    [
        (b"{", "not JSON", "{"),
        (b'{"a": "\xff"}', "not JSON", r'{"a": "\xff"}'),
        (b"\x00", "not JSON", r"\u0000"),
        (b"[" * 100_000, "not JSON", "[" * 100_000),
        (b"5", "not a JSON object", "5"),
        (b"{}", "track_metadata is missing", "{}"),
        (b'{"track_metadata": {}}', "listened_at is missing", '{"track_metadata": {}}'),
    ],
)
def test_a_refused_line_is_kept_with_its_reason(line: bytes, reason: str, payload: str) -> None:
    collected = builder(origin="file", user_name="ann")
    collected.add_lines([line], 7, "listens.jsonl")
    taken = collected.take()
    assert taken.listens.num_rows == 0
    assert taken.quarantine.schema == QUARANTINE_SCHEMA
    assert taken.quarantine.to_pylist() == [
        {
            "source": "test",
            "origin": "file",
            "position": "listens.jsonl:7",
            "user_name": "ann",
            "reason": reason,
            "payload": payload,
            "payload_hash": md5(line).digest(),
            "seen_at": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
        }
    ]


def test_a_line_that_was_cut_is_refused_as_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_LINE", 50)
    collected = builder()
    collected.add_lines([LINE[:51]])
    [refused] = collected.take().quarantine.to_pylist()
    assert (refused["reason"], refused["position"]) == ("longer than a listen can be", None)


def test_a_refused_payload_is_cut_at_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_PAYLOAD_CHARS", 10)
    collected = builder()
    collected.add_lines([b"\x00" * 100])
    [refused] = collected.take().quarantine.to_pylist()
    assert refused["payload"] == r"\u0000\u00"
    assert refused["payload_hash"] == md5(b"\x00" * 100).digest()


def test_a_decoded_listen_is_hashed_in_canonical_form() -> None:
    collected = builder()
    collected.add(GOOD)
    collected.add(dict(reversed(GOOD.items())))
    hashes = collected.take().listens["payload_hash"].to_pylist()
    assert hashes == [md5(to_json(GOOD).encode()).digest()] * 2


def test_a_decoded_listen_that_is_refused_is_kept_as_json() -> None:
    collected = builder(user_name="ann")
    collected.add({"track_metadata": {"track_name": "\ud800\0é"}})
    [refused] = collected.take().quarantine.to_pylist()
    assert refused["payload"] == r'{"track_metadata": {"track_name": "\ud800\u0000\u00e9"}}'
    assert refused["reason"] == "listened_at is missing"


def test_known_records_are_passed_over() -> None:
    collected = builder(known=frozenset({md5(LINE).digest(), md5(b"{").digest(), md5(to_json(GOOD).encode()).digest()}))
    collected.add_lines([LINE])
    collected.add_lines([b"{"])
    collected.add(GOOD)
    assert len(collected) == 0
    collected.add_lines([LINE + b" "])
    assert len(collected) == 1


def test_a_builder_is_full_after_a_batch_and_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BATCH_ROWS", 3)
    collected = builder()
    seen = []
    for line in (LINE, b"{", LINE, LINE):
        collected.add_lines([line])
        if collected.is_full:
            seen.append(collected.take())
    seen.append(collected.take())
    assert [(batch.listens.num_rows, batch.quarantine.num_rows) for batch in seen] == [(2, 1), (1, 0)]
    assert len(collected) == 0


def test_nothing_collected_is_two_empty_tables() -> None:
    taken = builder().take()
    assert (taken.listens, taken.quarantine) == (LISTENS_SCHEMA.empty_table(), QUARANTINE_SCHEMA.empty_table())


@pytest.mark.parametrize("inserted_at", [1e14, 9e12, -1e12, -5, 0, "soon", 253_402_300_799])
def test_an_absurd_time_of_receipt_does_not_stop_a_load(inserted_at: Any) -> None:
    collected = builder()
    collected.add({**GOOD, "inserted_at": inserted_at})
    assert collected.take().listens.num_rows == 1


def test_lines_without_a_user_are_the_given_users() -> None:
    collected = builder(user_name="ann")
    collected.add({name: value for name, value in GOOD.items() if name != "user_name"})
    collected.add(GOOD)
    assert collected.take().listens["user_name"].to_pylist() == ["ann", "rob"]


def test_seconds_become_timestamps() -> None:
    column = timestamps([0, None, 1_600_000_000])
    assert column.type == pa.timestamp("us", tz="UTC")
    assert column.cast(pa.int64()).to_pylist() == [0, None, 1_600_000_000_000_000]
