from __future__ import annotations

import gzip
import json
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from extract.exports import files
from extract.exports.listenbrainz import check_form, records
from music_pulse.errors import InputError

LISTEN = {"listened_at": 1_600_000_000, "user_name": "rob", "track_metadata": {"artist_name": "A", "track_name": "T"}}
LINE = json.dumps(LISTEN).encode()


def read_all(path: Path) -> list[bytes]:
    check_form(path, None)
    return [line for line, _, _, _ in records(path)]


def test_lines_come_without_their_ends_blank_ones_left_out_and_numbered() -> None:
    text = b"\xef\xbb\xbfone\r\n\n  \ntwo\nthree"
    assert list(files.lines(BytesIO(text))) == [(b"one", 1, False), (b"two", 4, False), (b"three", 5, False)]


def test_a_line_beyond_the_limit_is_cut_and_the_next_one_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINE", 10)
    found = list(files.lines(BytesIO(b"x" * 35 + b"\nnext\n" + b"y" * 10 + b"\n")))
    assert found == [(b"x" * 11, 1, True), (b"next", 2, False), (b"y" * 10, 3, False)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.zip", "misnamed.txt"])
def test_plain_gzip_and_zip_are_told_apart_by_content(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("listens/2020/9.jsonl", LINE + b"\n" + LINE)
            archive.writestr("user.json", "{}")
    elif name.endswith("jsonl"):
        path.write_bytes(LINE + b"\n" + LINE)
    else:
        path.write_bytes(gzip.compress(LINE + b"\n" + LINE))
    check_form(path, None)
    assert [line for line, _, _, _ in records(path)] == [LINE, LINE]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no listens"),
        (b"%PDF-1.7 nonsense", "not a file of ListenBrainz listens"),
        (b"[1, 2]", "not a file of ListenBrainz listens"),
        (gzip.compress(LINE * 5_000)[:-20], "damaged or incomplete"),
        (b"\x1f\x8bnot gzip at all", "damaged or incomplete"),
        (json.dumps({**LISTEN, "user_name": None}).encode(), "--user NAME"),
    ],
)
def test_a_file_that_is_not_what_it_claims_is_refused_in_one_line(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "given.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        read_all(path)
    assert "\n" not in str(caught.value)
    assert "given.jsonl" in str(caught.value)


def test_a_zip_without_listens_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match="no ListenBrainz export"):
        check_form(path, "rob")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.jsonl", tmp_path):
        with pytest.raises(InputError):
            check_form(path, "rob")
