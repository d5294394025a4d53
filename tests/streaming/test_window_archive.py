"""Days of closed windows as Parquet: each whole, each once, and again only where a new checkpoint counts again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import execute, query

from music_pulse.errors import DatabaseError, PulseError
from music_pulse.settings import Settings
from streaming import day_files
from streaming.window_archive import WindowArchiver, archive_windows

MIDNIGHT = datetime(2026, 11, 21, tzinfo=UTC)
DAY = timedelta(days=1)
CLOSED = MIDNIGHT + timedelta(minutes=5)
"""The last window of the day before midnight has ended."""

FIRST, SECOND = UUID(int=1), UUID(int=2)


def count(settings: Settings, start: datetime, *, listens: int = 1, kind: str = "track") -> None:
    execute(
        settings,
        "insert into raw.trending_windows values (%s, %s, %s, %s, 'Can', 'Spoon', %s, 1, now())",
        [start, start + timedelta(minutes=5), kind, UUID(int=listens), listens],
    )


def reach(settings: Settings, watermark: datetime | None, *, by: UUID = FIRST, whole_from: Any = None) -> None:
    """Let a query have written a batch."""
    execute(
        settings,
        "insert into raw.trending_ledger values (%s, 0, %s, %s, clock_timestamp())"
        " on conflict (query_id) do update set watermark = excluded.watermark, updated_at = excluded.updated_at",
        [by, watermark, whole_from],
    )


def path(folder: Path, date: str) -> Path:
    return folder / f"day={date}" / "windows.parquet"


def days(folder: Path) -> list[str]:
    return sorted(found.parent.name for found in folder.rglob("windows.parquet"))


def test_a_closed_day_is_written_once_and_equals_the_table(warehouse: Settings, tmp_path: Path) -> None:
    for start in (MIDNIGHT - DAY, MIDNIGHT - timedelta(minutes=1), MIDNIGHT):
        for kind in ("track", "artist"):
            count(warehouse, start, kind=kind)
    reach(warehouse, CLOSED)
    assert archive_windows(warehouse.credentials("loader"), tmp_path) == 1
    assert archive_windows(warehouse.credentials("loader"), tmp_path) == 0
    assert days(tmp_path) == ["day=2026-11-20"]
    expected = query(
        warehouse,
        "select window_start, window_end, entity_kind, entity_id::text, artist_name, track_name, listen_count,"
        " listener_count, updated_at from raw.trending_windows where window_start < %s order by 1, 2, 3, 4",
        [MIDNIGHT],
    )
    assert [tuple(row.values()) for row in pq.ParquetFile(path(tmp_path, "2026-11-20")).read().to_pylist()] == expected
    assert pq.read_table(tmp_path).schema.field("window_start").type == pa.timestamp("us", tz="UTC")


@pytest.mark.parametrize("watermark", [None, MIDNIGHT - DAY, CLOSED - timedelta(seconds=1)])
def test_a_day_that_may_still_change_is_not_written(
    warehouse: Settings, tmp_path: Path, watermark: datetime | None
) -> None:
    count(warehouse, MIDNIGHT - timedelta(minutes=20))
    assert archive_windows(warehouse.credentials("loader"), tmp_path) == 0
    reach(warehouse, watermark)
    assert archive_windows(warehouse.credentials("loader"), tmp_path) == 0
    assert days(tmp_path) == []


def test_days_without_windows_have_no_file(warehouse: Settings, tmp_path: Path) -> None:
    for number in (1, 2, 40):
        count(warehouse, MIDNIGHT - number * DAY)
    reach(warehouse, CLOSED)
    assert archive_windows(warehouse.credentials("loader"), tmp_path) == 3
    assert days(tmp_path) == ["day=2026-10-12", "day=2026-11-19", "day=2026-11-20"]


def test_a_new_checkpoint_writes_its_days_again_once_it_has_closed_them(warehouse: Settings, tmp_path: Path) -> None:
    for number in (1, 2):
        count(warehouse, MIDNIGHT - number * DAY)
    reach(warehouse, CLOSED)
    assert archive_windows(warehouse.credentials("loader"), tmp_path) == 2
    untouched = path(tmp_path, "2026-11-19").stat().st_ino
    count(warehouse, MIDNIGHT - DAY, listens=7)
    for watermark, written in ((None, 0), (MIDNIGHT, 0), (CLOSED, 1), (CLOSED, 0)):
        reach(warehouse, watermark, by=SECOND, whole_from=MIDNIGHT - DAY / 2)
        assert archive_windows(warehouse.credentials("loader"), tmp_path) == written
    assert pq.ParquetFile(path(tmp_path, "2026-11-20")).read()["listen_count"].to_pylist() == [1, 7]
    assert path(tmp_path, "2026-11-19").stat().st_ino == untouched


def test_what_a_killed_process_left_is_seen_by_nobody_and_overwritten(
    warehouse: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(descriptor: int) -> None:
        raise KeyboardInterrupt

    count(warehouse, MIDNIGHT - DAY)
    reach(warehouse, CLOSED)
    with monkeypatch.context() as patch:
        patch.setattr(day_files.os, "fsync", die)
        with pytest.raises(KeyboardInterrupt):
            archive_windows(warehouse.credentials("loader"), tmp_path)
    assert days(tmp_path) == []
    assert archive_windows(warehouse.credentials("loader"), tmp_path) == 1
    assert [found.name for found in path(tmp_path, "2026-11-20").parent.iterdir()] == ["windows.parquet"]


def test_many_may_write_at_once(warehouse: Settings, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        count(warehouse, MIDNIGHT - number * DAY)
    reach(warehouse, CLOSED)
    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(lambda _: archive_windows(warehouse.credentials("loader"), tmp_path), range(4)))
    assert sorted(written) == [0, 0, 0, 3]


def test_what_cannot_be_read_or_written_is_said_in_one_line(warehouse: Settings, tmp_path: Path) -> None:
    login = warehouse.credentials("loader")
    (tmp_path / "file").write_text("")
    with pytest.raises(PulseError, match="can't write the archive .*; set PULSE_ARCHIVE_DIR"):
        archive_windows(login, tmp_path / "file")
    with pytest.raises(DatabaseError, match="reading for the archive failed"):
        archive_windows(login._replace(dbname="nowhere"), tmp_path)


def test_the_archiver_looks_now_and_then_and_goes_on_after_an_error(
    warehouse: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    login = warehouse.credentials("loader")
    WindowArchiver(login._replace(dbname="nowhere"), tmp_path).after_batch()
    assert "the archive of closed windows waits: reading for the archive failed" in caplog.text
    archiver = WindowArchiver(login, tmp_path)
    archiver.after_batch()
    count(warehouse, MIDNIGHT - DAY)
    reach(warehouse, CLOSED)
    archiver.after_batch()
    assert days(tmp_path) == []
    archiver.look()
    assert days(tmp_path) == ["day=2026-11-20"]
