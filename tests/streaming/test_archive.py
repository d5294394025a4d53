"""The Parquet archive equals the table, day by day, and only what changed is written."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import listen, query

from music_pulse.database import connect
from music_pulse.errors import DatabaseError, PulseError
from music_pulse.settings import Settings
from streaming import archive as module
from streaming import day_files
from streaming.archive import Archiver, ListensArchive, day_of
from streaming.client import JsonSerializer, Record
from streaming.events import EventBuilder
from streaming.listen_rows import UUIDS, ListenReader
from streaming.listens_table import write_load
from streaming.tables import create_stream_tables

MIDNIGHT = 1_700_006_400  # 2023-11-15T00:00:00Z
DAY = day_of(MIDNIGHT)

_offsets = itertools.count()


@pytest.fixture
def archive(warehouse: Settings, tmp_path: Path) -> ListensArchive:
    with connect(warehouse.credentials("loader")) as connection:
        create_stream_tables(connection)
    return ListensArchive(warehouse.credentials("loader"), tmp_path / "listens")


def land(settings: Settings, *listens: dict[str, Any]) -> None:
    """Write listens as one load."""
    built, refused = EventBuilder().build(listens, now=MIDNIGHT + 1_000_000)
    assert refused == []
    values = [JsonSerializer().serialize(event) for event in built]
    records = [Record("listens", 0, next(_offsets), 1_800_000_000_123, b"ann", value, []) for value in values]
    rows, refused_too = ListenReader(JsonSerializer(), 1_000_000).read(records)
    assert refused_too == []
    with connect(settings.credentials("loader")) as connection:
        write_load(connection, rows, events=len(records), refused=0)


def table(settings: Settings) -> list[dict[str, Any]]:
    """Return the rows of the table in the archive's order, UUIDs as text."""
    names = (
        "select column_name from information_schema.columns"
        " where table_schema = 'raw' and table_name = 'stream_listens' order by ordinal_position"
    )
    columns = [name for (name,) in query(settings, names)]
    rows = query(settings, "select * from raw.stream_listens order by listened_at, listen_id")
    return [
        {
            name: str(value) if name in UUIDS and value is not None else value
            for name, value in zip(columns, row, strict=True)
        }
        for row in rows
    ]


def files(archive: ListensArchive) -> list[str]:
    return sorted(str(path.relative_to(archive.folder)) for path in archive.folder.rglob("*.parquet"))


def rows_in(paths: Iterable[Path]) -> list[dict[str, Any]]:
    return [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]


def test_a_file_a_day_in_utc_equals_the_table(warehouse: Settings, archive: ListensArchive) -> None:
    full = listen(MIDNIGHT, "Träck", "Artist", album="Album", ms=180_000, inserted_at=MIDNIGHT + 3)
    full["recording_msid"] = "00000000-0000-0000-0000-00000000000a"
    full["track_metadata"]["mbid_mapping"] = {"caa_id": 1}
    land(warehouse, listen(MIDNIGHT - 1), full, listen(MIDNIGHT, user="bob"), listen(MIDNIGHT + 86_400))
    assert archive.update() == 3
    assert files(archive) == [f"day=2023-11-{number}/listens.parquet" for number in (14, 15, 16)]
    assert rows_in(archive.path(day) for day in (DAY - 1, DAY, DAY + 1)) == table(warehouse)
    dataset = pq.read_table(archive.folder)
    assert dataset.num_rows == 4
    assert "day" in dataset.column_names
    assert dataset.schema.field("listened_at").type == pa.timestamp("us", tz="UTC")
    assert dataset["listened_at"][1].as_py() == datetime(2023, 11, 15, tzinfo=UTC)


def test_only_days_that_changed_are_written(warehouse: Settings, archive: ListensArchive) -> None:
    land(warehouse, listen(MIDNIGHT - 1), listen(MIDNIGHT))
    assert archive.update() == 2
    assert archive.update() == 0
    untouched = archive.path(DAY).stat()
    land(warehouse, listen(MIDNIGHT - 1, album="Album"))
    assert archive.update() == 1
    assert [row["album"] for row in rows_in([archive.path(DAY - 1)])] == ["Album"]
    assert (archive.path(DAY).stat().st_ino, archive.path(DAY).stat().st_mtime_ns) == (
        untouched.st_ino,
        untouched.st_mtime_ns,
    )


def test_only_days_that_are_asked_for_are_looked_at(
    warehouse: Settings, archive: ListensArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(warehouse, *(listen(MIDNIGHT + number * 86_400) for number in range(4)))
    assert archive.update([]) == 0
    assert archive.update([DAY + 1, DAY + 1, DAY - 7]) == 1
    assert files(archive) == ["day=2023-11-16/listens.parquet"]
    monkeypatch.setattr(module, "_MANY_DAYS", 1)
    assert archive.update([DAY, DAY + 1]) == 1
    assert files(archive) == ["day=2023-11-15/listens.parquet", "day=2023-11-16/listens.parquet"]


@pytest.mark.parametrize("damage", ["cut", "foreign", "missing"])
def test_a_file_that_is_not_what_was_written_is_written_anew(
    warehouse: Settings, archive: ListensArchive, damage: str
) -> None:
    land(warehouse, listen(MIDNIGHT))
    archive.update()
    path = archive.path(DAY)
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:100])
        case "foreign":
            pq.write_table(pa.table({"x": [1]}), path)
        case "missing":
            path.unlink()
    assert archive.update() == 1
    assert rows_in([path]) == table(warehouse)


def test_what_a_killed_process_left_is_seen_by_nobody_and_overwritten(
    warehouse: Settings, archive: ListensArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(descriptor: int) -> None:
        raise KeyboardInterrupt

    land(warehouse, listen(MIDNIGHT))
    archive.update()
    land(warehouse, listen(MIDNIGHT + 1))
    honest = day_files.os.fsync
    monkeypatch.setattr(day_files.os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        archive.update()
    monkeypatch.setattr(day_files.os, "fsync", honest)
    assert pq.read_table(archive.folder).num_rows == 1
    assert archive.update() == 1
    assert pq.read_table(archive.folder).num_rows == 2
    assert [path.name for path in archive.path(DAY).parent.iterdir()] == ["listens.parquet"]


def test_a_large_day_is_written_piece_by_piece(
    warehouse: Settings, archive: ListensArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(day_files, "_ROW_GROUP_ROWS", 100)
    monkeypatch.setattr(day_files, "_BATCH_BYTES", 10_000)
    land(warehouse, *(listen(MIDNIGHT + number) for number in range(1_000)))
    assert archive.update() == 1
    found = pq.ParquetFile(archive.path(DAY))
    assert found.metadata.num_rows == 1_000
    assert found.metadata.num_row_groups > 3
    assert rows_in([archive.path(DAY)]) == table(warehouse)


def test_days_that_the_table_does_not_know_are_left_alone(warehouse: Settings, archive: ListensArchive) -> None:
    older = archive.path(DAY - 365)
    older.parent.mkdir(parents=True)
    pq.write_table(pa.table({"x": [1]}), older)
    land(warehouse, listen(MIDNIGHT))
    assert archive.update() == 1
    assert pq.read_table(older).num_rows == 1


def test_many_may_write_at_once(warehouse: Settings, archive: ListensArchive) -> None:
    land(warehouse, *(listen(MIDNIGHT + number * 86_400) for number in range(3)))
    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(lambda _: ListensArchive(archive._login, archive.folder).update(), range(4)))
    assert sorted(written) == [0, 0, 0, 3]
    assert pq.read_table(archive.folder).num_rows == 3


def test_what_cannot_be_read_or_written_is_said_in_one_line(archive: ListensArchive, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PulseError, match="can't write the archive .*; set PULSE_ARCHIVE_DIR"):
        ListensArchive(archive._login, tmp_path / "file").update()
    with pytest.raises(DatabaseError, match=r"reading for the archive failed"):
        ListensArchive(archive._login._replace(dbname="nowhere"), tmp_path / "listens").update()


def test_the_archiver_brings_up_what_was_left_behind_and_what_is_touched(
    warehouse: Settings, archive: ListensArchive
) -> None:
    land(warehouse, listen(MIDNIGHT))
    with Archiver(archive) as archiver:
        land(warehouse, listen(MIDNIGHT + 86_400))
        archiver.touch([DAY + 1])
    assert rows_in([archive.path(DAY), archive.path(DAY + 1)]) == table(warehouse)


def test_the_archiver_tries_again_what_failed(
    warehouse: Settings, archive: ListensArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(warehouse, listen(MIDNIGHT))
    asked: list[object] = []
    done = threading.Event()
    honest = archive.update

    def update(days: Iterable[int] | None = None) -> int:
        asked.append(days)
        if len(asked) < 3:
            raise DatabaseError("the database is away")
        written = honest(days)
        done.set()
        return written

    monkeypatch.setattr(archive, "update", update)
    with Archiver(archive, seconds=0.01) as archiver:
        archiver.touch([DAY])
        assert done.wait(30)
    assert asked[:3] == [None, None, None]
    assert rows_in([archive.path(DAY)]) == table(warehouse)
