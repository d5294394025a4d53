"""When the trending job makes its checkpoint anew, and where that begins; what comes of it is in integration/."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from helpers import execute

from music_pulse.database import connect
from music_pulse.settings import Settings
from streaming.tables import create_stream_tables
from streaming.trending_job import _begin, _follow, _whole_from, keep_layout
from streaming.trending_rules import TrendingRules

RULES = TrendingRules()
MINUTE = timedelta(minutes=1)


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """A checkpoint with state, of the layout of today."""
    folder = tmp_path / "checkpoints" / "pulse-listens"
    keep_layout(folder, RULES)
    (folder / "metadata").write_text("{}", encoding="utf-8")
    (folder / "state").mkdir()
    return folder


def test_a_checkpoint_is_kept(held: Path) -> None:
    keep_layout(held, TrendingRules())
    assert {path.name for path in held.iterdir()} == {"layout.json", "metadata", "state"}


@pytest.mark.parametrize("is_noted", [False, True])
@pytest.mark.parametrize("was_killed", [False, True])
def test_a_checkpoint_of_another_layout_is_made_anew(
    held: Path, is_noted: bool, was_killed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    note = held / "layout.json"
    if is_noted:
        note.write_text(note.read_text(encoding="utf-8").replace('"layout": ', '"layout": 1'), encoding="utf-8")
    else:
        note.unlink()
    if was_killed:
        (held.with_name("pulse-listens.removed") / "state").mkdir(parents=True)
    keep_layout(held, RULES)
    assert [path.name for path in held.parent.rglob("*")] == ["pulse-listens", "layout.json"]
    assert "of another version" in caplog.text


@pytest.mark.parametrize("name", [field.name for field in fields(TrendingRules)])
def test_a_checkpoint_by_other_rules_is_made_anew(held: Path, name: str) -> None:
    keep_layout(held, replace(RULES, **{name: 5 * getattr(RULES, name)}))
    assert not (held / "state").exists()


def test_what_a_kill_left_of_a_checkpoint_is_removed(held: Path) -> None:
    held.replace(held.with_name("pulse-listens.removed"))
    keep_layout(held, RULES)
    assert [path.name for path in held.parent.rglob("*")] == ["pulse-listens", "layout.json"]


def begin(settings: Settings, checkpoint: Path) -> datetime | None:
    keep_layout(checkpoint, RULES)
    with connect(settings.credentials("loader"), autocommit=True) as connection:
        create_stream_tables(connection)
        return _begin(connection, checkpoint, RULES)


def stopped(settings: Settings, number: int, watermark: datetime | None) -> None:
    execute(
        settings,
        "insert into raw.trending_ledger (query_id, batch_id, watermark, updated_at) values (%s, 1, %s, now())",
        [UUID(int=number), watermark],
    )


def test_the_first_one_begins_with_the_topic(warehouse: Settings, tmp_path: Path) -> None:
    assert begin(warehouse, tmp_path / "checkpoint") is None


@pytest.mark.parametrize("age", [None, -MINUTE, 3 * MINUTE])
def test_a_new_one_begins_shortly_before_it_was_made(
    warehouse: Settings, tmp_path: Path, age: timedelta | None
) -> None:
    begin(warehouse, tmp_path / "first")
    now = datetime.now(UTC)
    stopped(warehouse, 1, None if age is None else now - age)
    began = begin(warehouse, tmp_path / "second")
    assert began is not None
    assert timedelta(0) <= began - (now - 15 * MINUTE) < MINUTE
    assert begin(warehouse, tmp_path / "second") == began


def test_after_a_longer_pause_it_begins_with_the_windows_that_were_left_open(
    warehouse: Settings, tmp_path: Path
) -> None:
    begin(warehouse, tmp_path / "first")
    watermark = (datetime.now(UTC) - timedelta(days=2)).replace(second=30, microsecond=0)
    stopped(warehouse, 1, watermark - timedelta(days=3))
    stopped(warehouse, 2, watermark)
    began = begin(warehouse, tmp_path / "second")
    assert began == watermark - 6 * MINUTE, "a clock may run a minute ahead of the broker's"
    # The first window that ends after the watermark.
    assert _whole_from(began, RULES) == watermark + timedelta(seconds=30) - 5 * MINUTE


class QueryWithNothingNew:
    """A query whose newest batch is known: all its reports are several hundred kilobytes."""

    lastProgress = SimpleNamespace(batchId=3)  # noqa: N815

    @property
    def recentProgress(self) -> Any:  # noqa: N802
        raise AssertionError("they are asked for without need")


def test_reports_are_read_only_after_a_batch() -> None:
    unused: Any = None
    query: Any = QueryWithNothingNew()
    assert _follow(query, 3, unused, unused) == 3
    with pytest.raises(AssertionError, match="without need"):
        _follow(query, 2, unused, unused)
