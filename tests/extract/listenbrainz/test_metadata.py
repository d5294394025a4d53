"""Metadata of recordings: asked for once, most listened first, a bounded number a run, and on from where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from doubles.listenbrainz import Fault, ListenBrainzDouble
from doubles.metadata import recording
from helpers import MakeWarehouse, execute, listen, load, query

from extract.listenbrainz import metadata
from extract.listenbrainz.metadata import enrich
from music_pulse.errors import ExternalAPIError
from music_pulse.settings import Settings

START = 1_600_000_000


@pytest.fixture
def api() -> Iterator[ListenBrainzDouble]:
    with ListenBrainzDouble() as double:
        yield double


@pytest.fixture
def settings(make_warehouse: MakeWarehouse, api: ListenBrainzDouble) -> Settings:
    return make_warehouse(listenbrainz_url=api.url, listenbrainz_attempts=1)


@pytest.fixture
def land(settings: Settings, tmp_path: Path) -> Callable[..., None]:
    """Land as many listens as said, of one track and the recording of that number, if any."""

    def landed(track: str, listens: int, number: int | None) -> None:
        rows = [listen(START + 1_000 * place + 7 * (number or 0), track) for place in range(listens)]
        for row in rows:
            row["track_metadata"]["additional_info"] = {"recording_mbid": mbid(number)} if number else {}
        load(settings, tmp_path, rows)

    return landed


def mbid(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012x}"


def asked(api: ListenBrainzDouble) -> list[list[int]]:
    """Return the numbers of the recordings of each request."""
    return [[int(one[-12:], 16) for one in query["recording_mbids"].split(",")] for _, query in api.requests]


def held(settings: Settings) -> dict[int, tuple[Any, ...]]:
    rows = query(
        settings,
        "select recording_mbid, is_known, recording_name, length_ms, artist_name, artist_mbids, release_name,"
        " release_mbid::text, release_year, genres from raw.recordings order by fetched_at",
    )
    return {row[0].int: row[1:] for row in rows}


UNKNOWN = (False, *[None] * 8)


def test_a_recording_is_asked_for_once_until_it_is_old(
    settings: Settings, api: ListenBrainzDouble, land: Callable[..., None]
) -> None:
    assert not enrich(settings).is_changed
    land("A", 1, 1)
    land("B", 3, 2)
    api.recordings[mbid(2)] = recording(
        "Bé", length=61_000, artists={mbid(8): "X", mbid(9): "Y"}, genres={"pop": 1, "dub": 5},
        release={"mbid": mbid(7), "name": "R", "year": 1994},
    )  # fmt: skip
    done = enrich(settings)
    assert (done.asked, done.known) == (2, 1)
    assert asked(api) == [[2, 1]]
    artists = f'["{mbid(8)}","{mbid(9)}"]'
    assert held(settings) == {
        1: UNKNOWN,
        2: (True, "Bé", 61_000, "X & Y", artists, "R", mbid(7), 1994, '["dub","pop"]'),
    }
    assert not enrich(settings).is_changed
    execute(settings, "update raw.recordings set fetched_at = now() - interval '91 days' where not is_known")
    api.recordings[mbid(1)] = recording("A")
    assert enrich(settings).known == 1
    assert asked(api) == [[2, 1], [1]]
    assert held(settings)[1] == (True, "A", *[None] * 7)


def test_what_fails_keeps_what_was_had_and_a_run_is_bounded(
    settings: Settings, api: ListenBrainzDouble, land: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "BATCH_RECORDINGS", 2)
    monkeypatch.setattr(metadata, "PACKAGE_RECORDINGS", 4)
    for number in range(1, 10):
        land(f"T{number}", 1, number)
    api.fault = lambda index, *_: Fault("status", 503) if index == 3 else None
    with pytest.raises(ExternalAPIError, match="metadata/recording"):
        enrich(settings)
    assert sorted(held(settings)) == [1, 2, 3, 4]
    assert enrich(settings, limit=3).asked == 3
    assert enrich(settings).asked == 2
    assert asked(api) == [[1, 2], [3, 4], [5, 6], [7, 8], [5, 6], [7], [8, 9]]
    assert enrich(settings, limit=0).asked == 0


@pytest.mark.parametrize("answer", [None, [], "x", {"recording": None, "tag": [1], "artist": {"artists": [{}]}}])
def test_what_has_another_shape_is_taken_as_unknown(
    settings: Settings, api: ListenBrainzDouble, land: Callable[..., None], answer: Any
) -> None:
    land("A", 1, 1)
    api.recordings[mbid(1)] = answer
    enrich(settings)
    assert held(settings) == {1: (isinstance(answer, dict), *[None] * 8)}


def test_a_track_gets_the_recording_that_most_of_its_listens_name(
    settings: Settings, land: Callable[..., None]
) -> None:
    land("A", 1, 1)
    land("a ", 2, 2)
    land("B", 1, 3)
    assert enrich(settings).tracks == 0
    land("A", 1, None)
    land("C", 1, None)
    assert enrich(settings).tracks == 1
    land("A", 3, 1)
    assert enrich(settings).tracks == 1
    assert enrich(settings).tracks == 0
    rows = query(settings, "select recording_mbid from raw.track_recordings order by _dlt_load_id")
    assert [row[0].int for row in rows] == [2, 1]
