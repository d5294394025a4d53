"""The marts against the reference, on real listens and on planted faults, column by column."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers import MakeWarehouse, assert_marts_are, build, listen, load, mart, query, sample_lines, to_lines
from reference import Expected, expect

from extract.pipeline import Landed
from music_pulse.settings import Settings

pytestmark = pytest.mark.integration

DAY = 86_400
NOON = 1_700_049_600
"""2023-11-15T12:00:00Z."""
MSID_1, MSID_2 = "00000000-0000-4000-8000-000000000001", "ffffffff-0000-4000-8000-000000000002"

UGLY_NAMES = (
    "İstanbul", "i̇stanbul", "istanbul", "ISTANBUL", "ΟΔΟΣ", "οδος", "οδοσ", "STRASSE", "Straße", "STRAẞE",
    "Ｆｕｌｌ", "Full", "Caf\u00e9", "Cafe\u0301", "CAFE\u0301", "Cafe", "\u00a0Cafe\u3000", "Cafe\t",
    "\u202eמוזיקה", "مرحبا بالعالم", "👩‍👩‍👧‍👦", "👩🏽", "e\u0323\u0307", "e\u0307\u0323", "\u212bngström", "Ångström",
    "\u0301start", "\u200bzero", "zero", "\ufeffbom", "bom", "a\\b'c\"d", "{artist}", "%s %(name)s", "null", "NULL",
    "\ue000private", "𝔊othic", "ﬁne", "fine", "ǅ", "ǆ", "x" * 10_000, "Ж" * 5_000, "a\nb", "a\tb", "a\x1bb",
)  # fmt: skip


def planted() -> list[Any]:
    """Return listens with every fault that we know how to make; bytes are lines as they are."""
    future = int(time.time()) + DAY
    # fmt: off
    faults: list[Any] = [
        # duplicates: exact, and the same listen told differently
        *[listen(NOON, "Twice", ms=1000)] * 2,
        listen(NOON + 1, "Longest wins", ms=1000, album="A"),
        listen(NOON + 1, "Longest wins", ms=2000),
        listen(NOON + 1, "longest WINS ", ms=1500, album="B"),
        listen(NOON + 2, "Album wins", ms=1000, recording_msid=MSID_1),
        listen(NOON + 2, "Album wins", ms=1000, album="A", recording_msid=MSID_2),
        listen(NOON + 3, "Smallest MSID wins", ms=1000, recording_msid=MSID_2),
        listen(NOON + 3, "smallest msid wins", ms=1000, recording_msid=MSID_1),
        listen(NOON + 3, "SMALLEST MSID WINS", ms=1000),
        *[listen(NOON + 4, name, ms=1000) for name in ("hash", "HASH", "Hash", " hash", "hash ")],
        # ties in one second, by one user and by several
        *[listen(NOON + 5, track, artist, user=user) for track in "ab" for artist in "xy" for user in ("ann", "bob")],
        # names that aren't there
        *[listen(NOON + 6, name) for name in (None, "", "  ", "\u3000\u00a0", "\0", "a\0b", "\ud800", 5, [], {}, True)],
        *[listen(NOON + 7, "T", name) for name in (None, "", "\t", "a\0", "\udfff", 0, ["a"])],
        *[listen(NOON + 8, user=name) for name in (None, "", " ", "a\0b", "u" * 256, 7)],
        listen(NOON + 8, user="u" * 255),
        # times
        *[
            listen(value, "When")
            for value in (
                str(NOON + 9), f" {NOON + 10} ", f"{NOON + 11}.9", NOON + 12.7, "1_700_049_700",
                "yesterday", "", None, True, [], {}, "nan", "inf", "2023-11-15T12:00:00Z",
                0, 1, -1, 1_033_430_399, 1_033_430_400, 1_033_430_401, NOON * 1000, 10**30,
                future, float(future), str(future), future - DAY + 60,
            )
        ],
        # lengths
        *[
            listen(NOON + 20 + place, "Length", ms=value)
            for place, value in enumerate((
                0, -1, 1, "1500", "abc", "", 1.9, 0.5, 2_073_600_000, 2_073_600_001, 10**12, 10**40, True, [], {},
                "1e5",
            ))
        ],
        # albums
        *[
            listen(NOON + 50 + place, "Album", album=value)
            for place, value in enumerate(("", " ", "A", " A ", 5, [], "\u2003"))
        ],
        listen(NOON + 60, "Album", album="a\0"),
        # names in every script, each against the others
        *[listen(NOON + 100 + place, name, "Ugly", ms=60_000) for place, name in enumerate(UGLY_NAMES)],
        *[listen(NOON + 200 + place, "Song", name, user="bob") for place, name in enumerate(UGLY_NAMES)],
        *[listen(NOON + DAY, name, name, user="eve") for name in UGLY_NAMES],
        # display names: the most frequent, and a tie
        *[listen(NOON + 300 + place, name, "Spelt") for place, name in enumerate(("b", "B", "B", "c", "C", "c "))],
        # days
        *[listen(NOON - NOON % DAY + shift, "Midnight") for shift in (-1, 0, 1)],  # of UTC
        *[listen(NOON - NOON % DAY + 23 * 3600 + shift, "Midnight") for shift in (-1, 0, 1)],  # of Berlin
        *[listen(1_698_535_800 + 3600 * place, "Clocks go back") for place in range(-2, 3)],
        *[listen(NOON + 2 * DAY, "Only", user=f"Üser {place}") for place in range(3)],
        # lines that are no listens
        b"{", b"[]", b"null", b"5", b'"text"', b"{}", b'{"track_metadata": 5}', b"\xff\xfe{}", b"[" * 5000,
        b'{"listened_at": NaN, "user_name": "ann", "track_metadata": {"artist_name": "a", "track_name": "b"}}',
    ]
    # fmt: on
    for place, info in enumerate((None, [], "text", 5, {"a": {"b": [1, None]}}, {"x": "\0\ud800"}, {"n": 10**30})):
        faults.append(listen(NOON + 400 + place, "Info"))
        faults[-1]["track_metadata"]["additional_info"] = info
    for place, seconds in enumerate((0, 90, "90", -5, 10**9, None)):
        faults.append(listen(NOON + 500 + place, "Seconds"))
        faults[-1]["track_metadata"]["additional_info"] = {"duration": seconds}
    for place, inserted in enumerate((NOON, str(NOON), -1e12, 1e14, 9e12, "soon", {}, 0)):
        faults.append(listen(NOON + 600 + place, "Inserted", inserted_at=inserted))
    for place, mbid in enumerate((MSID_1, MSID_2.upper(), MSID_2, "nonsense", 5, MSID_1.replace("-", ""))):
        faults.append(listen(NOON + 700 + place, "Mapped"))
        faults[-1]["track_metadata"]["mbid_mapping"] = {"recording_mbid": mbid}
    return [*faults, deep(NOON + 800, 300), deep(NOON + 801, 1000), deep(NOON + 802, 100_000)]


def deep(listened_at: int, levels: int) -> bytes:
    """Return a line with so many nested lists; beyond about a thousand nobody decodes it."""
    [line] = to_lines([listen(listened_at, "Deep", ms="NESTED")])
    return line.replace(b'"NESTED"', b'1, "deep": ' + b"[" * levels + b"]" * levels)


def crowded() -> list[dict[str, Any]]:
    """Return three days of many listens of few names: long top lists with ties."""
    chance = random.Random(5)
    return [
        listen(
            NOON + 10 * DAY + chance.randrange(3 * DAY),
            f"{chance.choice('tTuUéÉ')}{chance.randrange(40)}",
            f"{chance.choice('aAbBßẞ')}{chance.randrange(12)}",
            user=chance.choice(["ann", "bob", "eve"]),
            album=chance.choice([None, "A", "B"]),
            ms=chance.choice([None, 0, 1, 180_000, 200_001]),
        )
        for _ in range(900)
    ]


@dataclass
class Case:
    """What was loaded, and what must have become of it."""

    settings: Settings
    landed: Landed
    expected: Expected


@pytest.fixture(scope="module")
def case(make_warehouse: MakeWarehouse, tmp_path_factory: pytest.TempPathFactory) -> Case:
    settings = make_warehouse()
    lines = [*to_lines([listen(NOON - 1, "First")]), *sample_lines(), *to_lines(planted()), *to_lines(crowded())]
    landed = load(settings, tmp_path_factory.mktemp("lines"), lines)
    build(settings, time_zone="Europe/Berlin")
    return Case(settings, landed, expect(lines, now=time.time(), time_zone="Europe/Berlin"))


def test_every_mart_is_what_the_reference_says(case: Case) -> None:
    assert_marts_are(case.settings, case.expected)


def test_every_line_is_landed_or_refused_with_its_reason(case: Case) -> None:
    assert (case.landed.listens, case.landed.refused) == (case.expected.rows, case.expected.refused.total())
    assert Counter(dict(query(case.settings, "select reason, count(*) from raw.quarantine group by 1"))) == (
        case.expected.refused
    )
    assert len(case.expected.refused) > 15


def test_the_top_five_of_each_day_are_the_references(case: Case) -> None:
    top: dict[Any, list[str]] = {}
    for row in sorted(mart(case.settings, "daily_top", "rank <= 5"), key=lambda row: row["rank"]):
        top.setdefault((row["day"], row["kind"]), []).append(row["id"])
    assert top == {key: [identity for identity, *_ in best] for key, best in case.expected.top(5).items()}


def test_reconciliation_accounts_for_every_row(case: Case) -> None:
    rows = mart(case.settings, "reconciliation")
    assert sum(row["landed"] for row in rows) == case.expected.rows
    assert sum(row["listens"] for row in rows) == len(case.expected.listens)
    assert sum(row["duplicates"] for row in rows) == case.expected.duplicates
    assert sum(row["refused"] for row in rows) == len(
        set(query(case.settings, "select payload_hash from raw.quarantine"))
    )


def test_the_fixture_holds_the_faults_that_it_is_for(case: Case) -> None:
    spellings = Counter(
        track_id for track_id, _ in {(row.track_id, row.track) for row in case.expected.listens.values()}
    )
    assert spellings.most_common(1)[0][1] > 1
    assert case.expected.duplicates > 60
    assert {"user_a", "user_b", "user_c"} < {row.user_id for row in case.expected.listens.values()}


def test_invented_listens_are_counted_as_the_reference_counts_them(
    make_warehouse: MakeWarehouse, tmp_path: Path
) -> None:
    from extract.synthetic import Plan, generate

    listens = []
    for rows in generate(Plan(listens=3_000, seed=11, users=3, artists=60)):
        for row in rows.listens.to_pylist():
            listens.append(
                listen(
                    int(row["listened_at"].timestamp()), row["track_name"], row["artist_name"],
                    user=row["user_name"], album=row["album"], ms=row["duration_ms"],
                )
            )  # fmt: skip
    settings = make_warehouse()
    load(settings, tmp_path, listens)
    build(settings)
    assert_marts_are(settings, expect(to_lines(listens), now=time.time()))
