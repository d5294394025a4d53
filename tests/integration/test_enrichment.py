"""What ListenBrainz knows of recordings reaches the marts: lengths, MBIDs, genres, and only the days concerned."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from doubles.listenbrainz import ListenBrainzDouble
from doubles.metadata import recording
from helpers import MakeWarehouse, build, checksums, execute, listen, load, query

from extract.listenbrainz.metadata import enrich
from music_pulse.settings import Settings

pytestmark = pytest.mark.integration

DAY = 86_400
START = 1_600_000_000 // DAY * DAY
ONE, TWO = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"


@pytest.fixture
def api() -> Iterator[ListenBrainzDouble]:
    with ListenBrainzDouble() as double:
        yield double


def with_mbid(mbid: str | None, given: dict[str, Any]) -> dict[str, Any]:
    info = given["track_metadata"].setdefault("additional_info", {})
    info |= {"recording_mbid": mbid} if mbid else {}
    return given


def minutes(settings: Settings) -> list[tuple[Any, ...]]:
    """Return (day, minutes, listens of unknown length) of all."""
    return query(
        settings,
        f"""
        select
            (day - to_timestamp({START})::date)::integer,
            sum(value) filter (where metric = 'minutes_listened'),
            coalesce(sum(value) filter (where metric = 'listens_without_duration'), 0)
        from marts.daily_aggregates where dimension = 'all' group by 1 order by 1
        """,
    )


def rows_by_day(settings: Settings) -> dict[int, set[tuple[Any, ...]]]:
    """Return where the rows of each day lie: rewriting any shows."""
    found: dict[int, set[tuple[Any, ...]]] = {}
    for day, *place in query(
        settings,
        f"select (day - to_timestamp({START})::date)::integer, ctid::text, xmin::text from marts.user_daily_tracks",
    ):
        found.setdefault(day, set()).add(tuple(place))
    return found


def test_metadata_fills_what_listens_do_not_say(
    make_warehouse: MakeWarehouse, api: ListenBrainzDouble, tmp_path: Path
) -> None:
    settings = make_warehouse(listenbrainz_url=api.url)
    load(
        settings,
        tmp_path,
        [
            with_mbid(ONE, listen(START, "A")),
            with_mbid(None, listen(START + DAY, "a")),
            with_mbid(ONE, listen(START + 2 * DAY, "A", ms=30_000)),
            with_mbid(TWO, listen(START + 3 * DAY, "B")),
            with_mbid(None, listen(START + 4 * DAY, "C")),
        ],
    )
    build(settings)
    assert minutes(settings) == [(0, 0, 1), (1, 0, 1), (2, 0.5, 0), (3, 0, 1), (4, 0, 1)]
    assert query(settings, "select * from marts.track_genres") == []

    api.recordings[ONE] = recording("A", length=60_000, genres={"dub": 1, "pop": 2})
    assert enrich(settings).asked == 2
    before = rows_by_day(settings)
    build(settings)
    assert minutes(settings) == [(0, 1, 0), (1, 1, 0), (2, 0.5, 0), (3, 0, 1), (4, 0, 1)]
    rewritten = {day for day, places in rows_by_day(settings).items() if places != before[day]}
    assert rewritten == {0, 1}
    mbids = "select recording_mbid::text from marts.listen_events order by played_at_ts"
    assert query(settings, mbids) == [(ONE,), (ONE,), (ONE,), (TWO,), (None,)]
    genres = "select track, genre, place from marts.track_genres join marts.listen_events using (track_id)"
    assert sorted(set(query(settings, genres))) == [
        ("A", "dub", 2), ("A", "pop", 1), ("a", "dub", 2), ("a", "pop", 1)
    ]  # fmt: skip

    execute(settings, "update raw.recordings set fetched_at = %s", [datetime.now(UTC) - timedelta(days=91)])
    api.recordings = {TWO: recording("B", length=120_000)}
    assert enrich(settings).asked == 2
    build(settings)
    assert minutes(settings) == [(0, 0, 1), (1, 0, 1), (2, 0.5, 0), (3, 2, 0), (4, 0, 1)]
    before = rows_by_day(settings)
    build(settings)
    assert rows_by_day(settings) == before

    incremental = checksums(settings)
    build(settings, full_refresh=True)
    assert checksums(settings) == incremental
