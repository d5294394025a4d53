from __future__ import annotations

import gzip
import ssl
import threading
from datetime import timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from socket import socket

import pytest
from google_storage import google_bucket

from extract.exports import files, google
from extract.exports.files import FoundFile, find_files, opened, unchanged
from music_pulse.embedded.broker_security import BrokerSecurity
from music_pulse.errors import ConfigurationError, InputError
from music_pulse.settings import Settings


def found(*locations: str | Path) -> list[str]:
    return [file.location for file in find_files(Settings(_env_file=None), [str(item) for item in locations])]


def test_lines_come_without_their_ends_and_blank_ones_keep_their_place() -> None:
    text = b"\xef\xbb\xbfone\r\n\n  \ntwo\nthree"
    assert list(files.lines(BytesIO(text))) == [[b"one", b"", b"", b"two", b"three"]]


@pytest.mark.parametrize("chunk", [3, 4, 7, 100])
def test_lines_are_the_same_however_they_are_read(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_CHUNK", chunk)
    text = b"\xef\xbb\xbfone\n\ntwo \r\n" + "drei é".encode() + b"\n"
    found = [line for many in files.lines(BytesIO(text)) for line in many]
    assert found == [b"one", b"", b"two", "drei é".encode(), b""]


@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_a_line_beyond_the_limit_is_cut_and_the_next_one_is_whole(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINE", 10)
    monkeypatch.setattr(files, "_CHUNK", chunk)
    text = BytesIO(b"x" * 35 + b"\nnext\n" + b"y" * 10 + b"\n")
    found = [line for many in files.lines(text) for line in many]
    assert found == [b"x" * 11, b"next", b"y" * 10, b""]


def test_folders_are_looked_through_without_what_is_hidden_and_each_file_comes_once(tmp_path: Path) -> None:
    for name in ("b.json", "in/a.json", ".hidden/c.json", "__MACOSX/d.json", ".e.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    expected = [str(tmp_path / "b.json"), str(tmp_path / "in" / "a.json")]
    assert found(tmp_path, tmp_path / "b.json") == expected
    assert found(f"{tmp_path}/*", f"{tmp_path}/**/*.json") == expected


def test_what_was_asked_for_by_name_is_known_from_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.touch()
    settings = Settings(_env_file=None)
    assert find_files(settings, [str(path)]) == [FoundFile(str(path), is_named=True)]
    assert find_files(settings, [str(tmp_path)]) == [FoundFile(str(path), is_named=False)]
    assert find_files(settings, ["no*where"]) == [FoundFile("no*where", is_named=True)]


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="ftp://host/a.json: files are imported from paths, s3:// and gs://"):
        found("ftp://host/a.json")


def test_buckets_of_google_are_looked_through_and_files_copied() -> None:
    with google_bucket() as bucket:
        settings = Settings(_env_file=None, gcs_endpoint_url=bucket.url)
        names = ("ann/b #1.json", "ann/in/a.json", "ann/.c.json", "ann/__MACOSX/d.json", "bob/d.json", "bob/in/d.json")
        for name in names:
            bucket.put(name, name.encode())
        bucket.put("ann/in/", b" ")  # as consoles mark a folder

        def seen(*locations: str) -> list[str]:
            return [file.location for file in find_files(settings, locations)]

        ann = ["gs://histories/ann/b #1.json", "gs://histories/ann/in/a.json"]
        assert seen("gs://histories/ann") == seen("gs://histories/ann/", ann[1]) == ann
        assert seen("gs://histories") == [*ann, "gs://histories/bob/d.json", "gs://histories/bob/in/d.json"]
        assert seen("gs://histories/*/[cd].json") == ["gs://histories/bob/d.json"]
        assert seen("gs://histories/**/d.json") == ["gs://histories/bob/d.json", "gs://histories/bob/in/d.json"]
        assert seen("gs://histories/b*b/**") == ["gs://histories/bob/d.json", "gs://histories/bob/in/d.json"]
        assert seen("gs://histories/b*") == ["gs://histories/bob/d.json", "gs://histories/bob/in/d.json"]
        bucket.put("bob", b"a file called like a folder")
        assert seen("gs://histories/bob") == ["gs://histories/bob"]
        assert seen("gs://histories/bob/") == ["gs://histories/bob/d.json", "gs://histories/bob/in/d.json"]
        bucket.put("odd[1]/a.json", b"[]")
        assert seen("gs://histories/odd[1]") == ["gs://histories/odd[1]/a.json"]
        missing = [
            "gs://histories/ann/no.json",
            "gs://histories/no*",
            "gs://no/a.json",
            "gs://histories/no/",
            "gs://no",
        ]
        assert seen(*missing) == missing
        for file in find_files(settings, ann):
            with file.local() as copy:
                assert copy.name == file.location.rpartition("/")[2]
                assert f"gs://histories/{copy.read_text()}" == file.location
            assert not copy.exists()
        for file in find_files(settings, missing):
            with pytest.raises(InputError, match=r"gs://.*: no such file$"), file.local():
                pass


@pytest.mark.parametrize("content", [gzip.compress(b"{}" * 1_000), b"[]"])
def test_a_packed_file_of_google_is_copied_as_it_is(content: bytes) -> None:
    with google_bucket() as bucket:
        bucket.put("a.json.gz", content)
        settings = Settings(_env_file=None, gcs_endpoint_url=bucket.url)
        [file] = find_files(settings, ["gs://histories/a.json.gz"])
        with file.local() as copy:
            assert copy.read_bytes() == content


@pytest.mark.parametrize(
    ("location", "says"),
    [("gs://h*/a.json", "write the bucket's name out"), ("gs://histories/a**/b", "no pattern"), ("gs://", "bucket")],
)
def test_an_address_of_google_that_leads_nowhere_is_refused(location: str, says: str) -> None:
    with google_bucket() as bucket:
        settings = Settings(_env_file=None, gcs_endpoint_url=bucket.url)
        with pytest.raises(InputError, match=says):
            find_files(settings, [location])


def test_an_object_that_cannot_be_named_is_refused_alone() -> None:
    with google_bucket() as bucket:
        settings = Settings(_env_file=None, gcs_endpoint_url=bucket.url)
        [file] = find_files(settings, ["gs://histories/a//b.json"])
        with pytest.raises(InputError, match="gs://histories/a//b.json: can't be read: Empty path"), file.local():
            pass


@pytest.mark.parametrize("url", ["storage.example.com", "ftp://host", "http://", "http://host/path"])
def test_what_is_no_endpoint_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="PULSE_GCS_ENDPOINT_URL"):
        find_files(Settings(_env_file=None, gcs_endpoint_url=url), ["gs://histories/a.json"])


def test_google_that_cannot_be_reached_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(google, "_RETRY", timedelta(seconds=1))
    with socket() as unused:
        unused.bind(("127.0.0.1", 0))
        settings = Settings(_env_file=None, gcs_endpoint_url=f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(InputError) as caught:
            find_files(settings, ["gs://histories/a.json"])
    assert str(caught.value).startswith("gs://histories/a.json: can't be read: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_certificate_that_is_not_trusted_is_an_error_of_one_line(tmp_path: Path) -> None:
    BrokerSecurity(tmp_path).set_up()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        settings = Settings(_env_file=None, gcs_endpoint_url=f"https://localhost:{server.server_address[1]}")
        with pytest.raises(InputError, match=r"^gs://histories/a.json: can't be read: .*certificate.*$") as caught:
            find_files(settings, ["gs://histories/a.json"])
        assert len(str(caught.value)) < 300
    finally:
        server.shutdown()
        server.server_close()


def test_without_credentials_google_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(google, "_RETRY", timedelta(seconds=1))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    with pytest.raises(InputError, match=r"no token for Google Cloud \(.+\): set GOOGLE_APPLICATION_CREDENTIALS"):
        find_files(Settings(_env_file=None), ["gs://histories/a.json"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (gzip.compress(bytes(range(256)) * 500)[:-20], "damaged or incomplete"),
        (b"\x1f\x8bnot gzip at all", "damaged or incomplete"),
    ],
)
def test_a_damaged_gzip_file_is_an_error_that_names_it(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "given.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught, opened(path) as file:
        file.read()
    assert "\n" not in str(caught.value)
    assert "given.gz" in str(caught.value)


def test_a_file_that_unpacks_to_absurdly_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_ALWAYS_FINE", 1_000)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(1_000_000)))
    with pytest.raises(InputError, match="unpacks to over 200 times its size"), opened(path) as file:
        list(iter(lambda: file.read(10_000), b""))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.jsonl", tmp_path):
        with pytest.raises(InputError), opened(path):
            pass


def test_a_file_that_grows_meanwhile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "growing.json"
    path.write_bytes(b"[")
    with pytest.raises(InputError, match="still being written"), unchanged(path):
        path.write_bytes(b"[{")
