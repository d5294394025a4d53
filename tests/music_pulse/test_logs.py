from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from music_pulse.logs import configure_logging, run_id, without_secrets


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("postgresql://u:pa55@h:1/d failed", "postgresql://u:***@h:1/d failed"),
        ("password=pa55 host=h", "password=*** host=h"),
        ('{"token": "pa55"}', '{"token": "***"}'),
        ("Token: pa55", "Token: ***"),
        ("no such thing at 12:30", "no such thing at 12:30"),
    ],
)
def test_passwords_and_tokens_are_blanked(text: str, clean: str) -> None:
    assert without_secrets(text) == clean


def test_the_file_holds_one_json_object_a_line_with_one_run_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(tmp_path, "WARNING")
    logging.getLogger("extract.somewhere").info("read %d", 3)
    try:
        raise ValueError("password=pa55")
    except ValueError:
        logging.getLogger("music_pulse.cli").warning("it broke", exc_info=True)
    entries = [json.loads(line) for line in (tmp_path / "logs" / "pulse.jsonl").read_text().splitlines()]
    assert [entry["message"] for entry in entries] == ["read 3", "it broke"]
    assert {entry["run_id"] for entry in entries} == {run_id()}
    assert "pa55" not in entries[1]["exception"]
    assert "read 3" not in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_costs_the_file_and_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    configure_logging(tmp_path)
    logging.getLogger("music_pulse").info("still here")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_costs_the_files_lines_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "pulse.jsonl").symlink_to("/dev/full")
    configure_logging(tmp_path, "WARNING")
    logging.getLogger("extract.somewhere").warning("told all the same")
    assert capsys.readouterr().err.rstrip().endswith("warning: told all the same")
    configure_logging(tmp_path / "another")
