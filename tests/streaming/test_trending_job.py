"""What the trending job does with its checkpoint before Spark starts; the rest is in integration/."""

from __future__ import annotations

from pathlib import Path

import pytest

from streaming.trending_job import keep_layout


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint with state, of the layout of today."""
    folder = tmp_path / "checkpoints" / "pulse-listens"
    keep_layout(folder)
    (folder / "metadata").write_text("{}", encoding="utf-8")
    (folder / "state").mkdir()
    return folder


def test_a_checkpoint_is_kept(checkpoint: Path) -> None:
    keep_layout(checkpoint)
    assert {path.name for path in checkpoint.iterdir()} == {"layout", "metadata", "state"}


@pytest.mark.parametrize("note", [None, "1"])
@pytest.mark.parametrize("was_killed", [False, True])
def test_a_checkpoint_of_another_layout_is_made_anew(
    checkpoint: Path, note: str | None, was_killed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if note:
        (checkpoint / "layout").write_text(note, encoding="utf-8")
    else:
        (checkpoint / "layout").unlink()
    if was_killed:
        (checkpoint.parent / "pulse-listens.removed" / "state").mkdir(parents=True)
    keep_layout(checkpoint)
    assert [path.name for path in checkpoint.parent.rglob("*")] == ["pulse-listens", "layout"]
    assert "another version" in caplog.text


def test_what_a_kill_left_of_a_checkpoint_is_removed(checkpoint: Path) -> None:
    checkpoint.replace(checkpoint.with_name("pulse-listens.removed"))
    keep_layout(checkpoint)
    assert [path.name for path in checkpoint.parent.rglob("*")] == ["pulse-listens", "layout"]
