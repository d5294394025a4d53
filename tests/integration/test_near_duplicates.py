"""Near-duplicates: one play that two origins tell of is one listen, in whatever order it comes."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    DATA,
    MakeWarehouse,
    assert_marts_are,
    build,
    checksums,
    execute,
    listen,
    load,
    mart,
    query,
    to_lines,
)
from reference import Expected, Row, digest, expect, repeats

from extract.exports import import_files
from music_pulse.settings import Settings

pytestmark = pytest.mark.integration

MIDNIGHT = 1_700_006_400
"""2023-11-15T00:00:00Z."""
NOON = MIDNIGHT + 43_200

Files = Sequence[Sequence[dict[str, Any]]]


def sent_by(client: str | None, *listened_at: int, track: str = "Track", **how: Any) -> list[dict[str, Any]]:
    """Return listens that one client sent."""
    found = [listen(second, track, ms=200_000, **how) for second in listened_at]
    for item in found:
        item["track_metadata"]["additional_info"]["submission_client"] = client
    return found


PLANTED: Files = (
    [
        *sent_by(None, NOON, NOON + 30, NOON + 45, track="Within one origin"),
        *sent_by(None, NOON, track="In two files"),
        *sent_by(None, NOON, track="Exactly the limit"),
        *sent_by(None, NOON, NOON + 40, NOON + 80, track="Chain of four"),
        *sent_by(None, NOON, NOON + 50, track="Both in both"),
        *sent_by(None, MIDNIGHT - 5, track="Across midnight"),
        *sent_by("a", NOON, track="Two clients"),
        *sent_by("b", NOON + 1, track="Two clients"),
        *sent_by(None, NOON, track="Spelt otherwise", user="ann"),
        *sent_by(None, NOON, track="Another's", user="bob"),
    ],
    [
        *sent_by(None, NOON + 59, track="In two files"),
        *sent_by(None, NOON + 60, track="Exactly the limit"),
        *sent_by(None, NOON + 58, track="Chain of three"),
        *sent_by(None, NOON + 39, NOON + 99, track="Chain of four"),
        *sent_by(None, NOON, NOON + 50, track="Both in both"),
        *sent_by(None, MIDNIGHT + 5, track="Across midnight"),
        *sent_by(None, NOON + 2, track="Spelt otherwise", user="ANN"),
        *sent_by(None, NOON + 2, track="Another's", user="ann"),
    ],
    [
        *sent_by(None, NOON, track="Chain of three"),
        *sent_by("a", NOON + 116, track="Chain of three"),
    ],
)
LEFT_OUT = {
    ("In two files", 59),
    ("Chain of three", 58),  # so that the next one, 58 s after it and 116 s after the kept one, is kept
    ("Chain of four", 39),
    ("Across midnight", 5 + MIDNIGHT - NOON),
    ("Two clients", 1),
    ("Spelt otherwise", 2),
    ("Chain of four", 99),  # of the one at 40, which is kept since its own file has the one before it
}


def random_files(seed: int) -> Files:
    """Return three files of two clients each, listens seconds apart around midnight; some stand in several."""
    chance = random.Random(seed)
    files: list[list[dict[str, Any]]] = [[], [], []]
    for track in range(40):
        second = MIDNIGHT - 300
        while second < MIDNIGHT + 300:
            second += chance.choice([1, 7, 20, 30, 59, 60, 61, 120])
            for file in chance.sample(files, chance.choice([1, 1, 2])):
                user, client = chance.choice(["ann", "Ann", "bob"]), chance.choice([None, "a", "a"])
                file += sent_by(client, second, track=f"Random {track}", user=user)
    return files


def expected_of(files: Files, **how: Any) -> Expected:
    lines = [line for file in files for line in to_lines(file)]
    return expect(lines, now=time.time(), files=[number for number, file in enumerate(files) for _ in file], **how)


def test_the_rule_on_planted_listens() -> None:
    """Says in plain words what the reference must find; the warehouse is compared with the reference."""
    lines = {
        digest(
            item["user_name"].lower(), str(item["listened_at"]), "artist", item["track_metadata"]["track_name"].lower()
        ): (item["track_metadata"]["track_name"], item["listened_at"] - NOON)
        for file in PLANTED
        for item in file
    }
    assert {lines[listen_id] for listen_id in expected_of(PLANTED).near_duplicates} == LEFT_OUT


def test_arrival_in_any_order(make_warehouse: MakeWarehouse, tmp_path: Path, subtests: pytest.Subtests) -> None:
    """One warehouse that grows file by file: builds are dear."""
    noise = random_files(1)
    files = [[*planted, *more] for planted, more in zip(PLANTED, noise, strict=True)]
    grown = make_warehouse()
    for count in (1, 2, 3):
        load(grown, tmp_path, files[count - 1])
        build(grown)
        with subtests.test(f"{count} files"):
            assert_marts_are(grown, expected_of(files[:count]))
    sums = checksums(grown)
    with subtests.test("full refresh"):
        build(grown, full_refresh=True)
        assert checksums(grown) == sums
    with subtests.test("all at once, in another order"):
        other = make_warehouse()
        for file in reversed(files):
            load(other, tmp_path, file)
        build(other)
        assert_marts_are(other, expected_of(files))
        assert checksums(other) == sums
    with subtests.test("a deleted listen gives its near-duplicate back"):
        a_deleted_listen_gives_its_near_duplicate_back(grown, files)
    with subtests.test("another limit takes effect at the next build"):
        build(grown, near_duplicate_seconds=30)
        assert_marts_are(grown, expected_of(_without_deleted(files), near_seconds=30))
    with subtests.test("with the var off they count, and are marked"):
        with_the_var_off_they_count_and_are_marked(grown, _without_deleted(files))


def _without_deleted(files: Files) -> Files:
    return [[item for item in files[0] if item["track_metadata"]["track_name"] != "In two files"], *files[1:]]


def a_deleted_listen_gives_its_near_duplicate_back(grown: Settings, files: Files) -> None:
    """As if the kept one had come from the API, and ListenBrainz showed it no more."""
    kept = "track_name = 'In two files' and listened_at = to_timestamp(%s)"
    execute(grown, f"update raw.listens set source = 'listenbrainz' where {kept}", [NOON])
    execute(
        grown,
        "insert into raw.listen_tombstones select user_name, listened_at, recording_msid, listen_id, payload_hash, "
        f"'deleted', now(), '9999999999.9' from raw.listens where {kept}",
        [NOON],
    )
    execute(
        grown,
        "insert into raw._dlt_loads (load_id, schema_name, status, inserted_at) "
        "values ('9999999999.9', 'listenbrainz', 0, now())",
    )
    build(grown)
    assert_marts_are(grown, expected_of(_without_deleted(files)))


def with_the_var_off_they_count_and_are_marked(grown: Settings, files: Files) -> None:
    build(grown, near_duplicate_seconds=30, exclude_near_duplicates=False)
    expected = expected_of(files, near_seconds=0)
    expected.near_duplicates = expected_of(files, near_seconds=30).near_duplicates
    assert_marts_are(grown, expected)
    marked = query(grown, "select listen_id::text from marts.listen_events where near_duplicate_of is not null")
    assert {listen_id for (listen_id,) in marked} == set(expected.near_duplicates)
    [(left_out,)] = query(grown, "select sum(near_duplicates) from marts.reconciliation")
    assert left_out == 0


def test_plays_that_two_exports_of_one_listener_hold(warehouse: Settings) -> None:
    """A real history, from Spotify twice: which plays stand in both is found in raw a second time."""
    import_files(warehouse, [DATA / "endsong_0.json", DATA / "StreamingHistory0.json"], user_name="ann")
    build(warehouse)
    listens: dict[str, Row] = {}
    origins: dict[str, set[tuple[object, str | None]]] = defaultdict(set)
    heard = "select listen_id::text, extract(epoch from listened_at)::int, artist_name, track_name, origin, played_ms"
    for listen_id, second, artist, track, origin, played_ms in query(warehouse, f"{heard} from raw.listens"):
        origins[listen_id].add((origin, None))
        if played_ms >= 30_000:
            listens[listen_id] = Row("ann", second, artist, track, None, None, None, None, None, "")
    rows = mart(warehouse, "near_duplicates")
    assert len(rows) > 10
    assert {row["listen_id"]: row["near_duplicate_of"] for row in rows} == repeats(listens, origins, 60)
    for row in rows:
        assert {row["source"], row["kept_source"]} == {"spotify_extended", "spotify_short"}
        apart = (row["played_at_ts"] - row["kept_played_at_ts"]).total_seconds()
        assert row["seconds_apart"] == apart
        assert row["reason"].startswith(f"starts {apart:.0f} s after the same track from {row['kept_source']}, file ")
    [bridge] = query(warehouse, "select near_duplicates, listens from marts.reconciliation")
    assert bridge == (len(rows), len(listens) - len(rows))
