"""Identity repair: spellings that MusicBrainz, or the user, says are one count as one, and nothing is lost by it."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers import MakeWarehouse, assert_marts_are, build, checksums, dbt, execute, listen, load, mart, query, to_lines
from reference import VARIOUS_ARTISTS, Expected, digest, expect

from music_pulse.settings import Settings

pytestmark = pytest.mark.integration

DAY = 86_400
NOON = 1_700_049_600
"""2023-11-15T12:00:00Z."""


_places = itertools.count(1)


def mbid(number: int) -> str:
    return f"{number:08d}-0000-4000-8000-000000000000"


def heard(
    day: int, artist: str, mbids: Any = None, track: str = "Song", recording: int | None = None
) -> dict[str, Any]:
    """Return a listen; `mbids` are numbers of artists. No two start within a minute of each other."""
    found = listen(NOON + day * DAY + 100 * next(_places), track, artist, ms=60_000)
    info = found["track_metadata"]["additional_info"]
    info["artist_mbids"] = [mbid(number) if isinstance(number, int) else number for number in mbids or []] or None
    info["recording_mbid"] = None if recording is None else mbid(recording)
    return found


def artist(name: str) -> str:
    return digest(name.lower())


def track(by: str, name: str) -> str:
    return digest(by.lower(), name.lower())


FIRST = [
    *[heard(0, "Beyonce", [1], "Halo", 101) for _ in range(3)],
    *[heard(day, "Beyoncé", [1], "Halo", 101) for day in range(5)],
    heard(1, "Beyoncé", [1], "Halo (live)", 102),
    heard(1, "Beyoncé", [1], "HALO!", 101),
    heard(2, "beyonce", None, "Nobody knows"),
    *[heard(0, "Two lists", [number]) for number in (2, 3)],
    heard(1, "Two Lists, too", [2]),
    heard(0, "Somebody", [4]),
    heard(0, "Somebody feat. Another", [4]),
    heard(0, "Somebody ft. Another", [4]),
    heard(0, "X & Y", [5, 6]),
    heard(0, "X and Y", [5, 6]),
    heard(0, "Y & X", [6, 5]),
    heard(0, "Tyler, The Creator", [7]),
    heard(0, "Tyler the Creator", [7]),
    heard(0, "Various Artists", [VARIOUS_ARTISTS]),
    heard(0, "V.A.", [VARIOUS_ARTISTS]),
    heard(0, "Original", [8], "Cover me", 103),
    heard(0, "Cover band", [9], "Cover me", 103),
    heard(0, "Original", [8], "Two recordings", 104),
    heard(0, "Original", [8], "Two recordings", 105),
    heard(0, "Original", [8], "One of the two recordings", 104),
    heard(0, "Not a list", ["nonsense"]),
    heard(0, "Not a list either", ["nonsense"]),
    heard(0, "By hand"),
    heard(1, "By hand, misspelt"),
]
JOINED = [
    {"Beyonce", "Beyoncé"},
    {"Somebody feat. Another", "Somebody ft. Another"},
    {"X & Y", "X and Y"},
    {"Tyler, The Creator", "Tyler the Creator"},
]
JOINED_TRACKS = {("Beyonce", "Halo"), ("Beyoncé", "Halo"), ("Beyoncé", "HALO!")}
SECOND = [
    heard(3, "Two lists", [2]),  # still two
    heard(3, "BEYONCÉ ", [10], "Halo", 101),  # now Beyoncé has two, and is nobody's spelling any more
    heard(9, "X + Y", [5, 6]),
    heard(9, "Ye", [11]),
    heard(9, "Kanye West", [11]),
]


def noise(seed: int) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [
        heard(
            chance.randrange(6),
            f"{chance.choice(['', 'The '])}Artist {(number := chance.randrange(30))}",
            [1000 + number] if chance.random() < 0.4 else [chance.randrange(1000, 1100)] * (chance.random() < 0.03),
            f"{chance.choice(['a', 'b'])}{(song := chance.randrange(4))}",
            2000 + 10 * number + song if chance.random() < 0.5 else None,
        )
        for _ in range(300)
    ]


def expected_of(*loads: list[Any], **how: Any) -> Expected:
    return expect(to_lines([item for items in loads for item in items]), now=time.time(), **how)


def test_what_is_one() -> None:
    """Says in plain words what the reference must find; the warehouse is compared with the reference."""
    redirects = expected_of(FIRST).redirects
    found = {frozenset({key, value}) for key, value in redirects.items()}
    pairs = {frozenset(artist(name) for name in names) for names in JOINED}
    halo = sorted(track(*names) for names in JOINED_TRACKS)
    assert found == pairs | {frozenset({halo[0], other}) for other in halo[1:]}
    assert artist("Beyonce") not in expected_of(FIRST, SECOND).redirects


def test_grown_redirected_and_built_anew(
    make_warehouse: MakeWarehouse, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """One warehouse that grows step by step: builds are dear."""
    first, second = FIRST + noise(1), SECOND + noise(2)
    grown = make_warehouse()
    load(grown, tmp_path, first)
    build(grown)
    with subtests.test("spellings of one list are one"):
        assert_marts_are(grown, expected_of(first))
        [named] = mart(grown, "entity_redirects", "name in ('Beyonce', 'Beyoncé') and kind = 'artist'")
        assert named["canonical_name"] == "Beyoncé"
    load(grown, tmp_path, second)
    build(grown)
    with subtests.test("what is learnt later moves the days before"):
        assert_marts_are(grown, expected_of(first, second))
    sums = checksums(grown)
    with subtests.test("a full refresh gives the same"):
        build(grown, full_refresh=True)
        assert checksums(grown) == sums
    with subtests.test("so does one load in another order"):
        other = make_warehouse()
        load(other, tmp_path, [*reversed(second), *first])
        build(other)
        assert {**checksums(other), "near_duplicates": ""} == {**sums, "near_duplicates": ""}
    with subtests.test("the user joins and splits by hand"):
        the_user_joins_and_splits_by_hand(grown, first + second)
    with subtests.test("without repair each spelling stands alone"):
        build(grown, identity_repair=False)
        assert_marts_are(grown, expected_of(first, second, is_repaired=False))
        assert mart(grown, "entity_redirects") == []


def the_user_joins_and_splits_by_hand(grown: Settings, listens: list[Any]) -> None:
    overrides = {
        artist("By hand, misspelt"): artist("By hand"),
        track("By hand, misspelt", "Song"): track("By hand", "Song"),
        artist("Ye"): "split",
        artist("Cover band"): artist("X + Y"),  # itself another's spelling
        artist("Original"): artist("Nobody of that name"),
    }
    override(grown, overrides)
    assert dbt(grown, "run")
    assert_marts_are(grown, expected_of(listens, overrides=overrides))
    reasons = query(grown, "select reason, count(*) from marts.entity_redirects group by reason order by reason desc")
    assert reasons[0] == ("override", 3)
    # Joined to what is joined elsewhere: refused, before anything is built.
    override(grown, {artist("By hand"): artist("Ye")})
    assert not dbt(grown, "test", "--select", "assert_overrides_do_not_chain")


def override(settings: Settings, overrides: Mapping[str, str]) -> None:
    for identity, target in overrides.items():
        kind = "track" if identity == track("By hand, misspelt", "Song") else "artist"
        execute(settings, "insert into staging.identity_overrides values (%s, %s, %s)", (kind, identity, target))


def test_a_listen_lost_on_the_way_to_the_entities_is_found(warehouse: Settings, tmp_path: Path) -> None:
    load(warehouse, tmp_path, FIRST)
    build(warehouse)
    execute(warehouse, "update marts.user_daily_tracks set listens = listens + 1 where day = '2023-11-17'")
    assert not dbt(warehouse, "test", "--select", "assert_daily_listens_match_events")
