"""What a file is imported as, and what is said of one that is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from extract.exports.files import FoundFile
from extract.exports.units import units_of
from music_pulse.errors import InputError


@pytest.mark.parametrize("content", [b"", b"%PDF-1.7 Read me first", b'{"a": 1}'])
def test_of_a_folder_what_is_no_history_is_named_and_of_a_command_refused(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with caplog.at_level("INFO"):
        assert units_of(FoundFile(str(path), is_named=False), path, None) == []
    assert caplog.messages == [f"{path}: passed over, no listening history"]
    with pytest.raises(InputError, match=r"^notes\.txt: "):
        units_of(FoundFile(str(path), is_named=True), path, None)
