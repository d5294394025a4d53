"""What the commands of the stream work out by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from music_pulse import streams
from music_pulse.embedded import jars
from music_pulse.errors import ConfigurationError, InputError
from music_pulse.settings import Settings


def settings(home: Path, **values: Any) -> Settings:
    return Settings(_env_file=None, home=home, **values)  # type: ignore[call-arg]


def test_the_job_reads_on_behind_the_last_batch_that_was_committed(tmp_path: Path) -> None:
    assert streams.processed(tmp_path, "listens") == {}
    for folder in ("commits", "offsets"):
        (tmp_path / folder).mkdir()
    for batch in (9, 10, 11):  # 11 was begun
        text = f'v1\n{{"batchWatermarkMs":0}}\n{{"listens":{{"0":{batch * 100},"1":7}}}}'
        (tmp_path / "offsets" / str(batch)).write_text(text)
    for name in ("9", ".9.crc", "10"):
        (tmp_path / "commits" / name).write_text("v1\n{}")
    assert streams.processed(tmp_path, "listens") == {0: 1_000, 1: 7}


def test_the_jars_of_a_broker_are_fetched_only_where_it_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def resolve(coordinates: Any, *_: Any) -> list[Path]:
        asked.append(coordinates)
        return [tmp_path / "some.jar"]

    monkeypatch.setattr(jars, "resolve", resolve)
    assert streams.fetch_jars(settings(tmp_path, kafka_bootstrap="a:1"), with_spark=True) == [tmp_path / "some.jar"]
    assert asked == [jars.SPARK_COORDINATES]
    streams.fetch_jars(settings(tmp_path), with_spark=True)
    assert asked[1:] == [jars.KAFKA_COORDINATES, jars.SPARK_COORDINATES]


def test_what_is_wrong_is_told_before_anything_is_started(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read"):
        streams.run_replay(settings(tmp_path / "home"), tmp_path, 1.0, None)
    with pytest.raises(ConfigurationError, match="must be a multiple"):
        streams.run_trending(settings(tmp_path / "home", trending_window_minutes=7, trending_slide_minutes=2))
    assert not (tmp_path / "home").exists()
