"""Files of every kind through `import_files` into raw, and what is refused on the way."""

from __future__ import annotations

import gzip
import json
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from google_storage import google_bucket
from helpers import DATA, MakeWarehouse, query
from moto.server import ThreadedMotoServer

from extract import rows
from extract.exports import Import, files, import_files
from extract.exports.report import NEAR_SECONDS
from extract.skips import MIN_PLAY_SECONDS
from music_pulse.blocklist import block
from music_pulse.database import connect
from music_pulse.errors import InputError
from music_pulse.settings import PROJECT_ROOT, Settings

SHORT = {"endTime": "2022-12-01 00:03", "artistName": "A", "trackName": "T", "msPlayed": 60_000}
LISTEN = {"listened_at": 1_600_000_000, "track_metadata": {"artist_name": "A", "track_name": "T"}}


def streams(count: int, artist: str = "A") -> bytes:
    return json.dumps([{**SHORT, "artistName": artist, "trackName": f"T{number}"} for number in range(count)]).encode()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def outcome(done: Import) -> dict[str, Any]:
    """Return what became of each file, by its name: numbers, `imported before` or the error."""
    return {
        Path(file.name).name: file.error
        or ("imported before" if file.was_imported else (file.records, file.landed, file.refused, file.no_music))
        for file in done.files
    }


def landed(settings: Settings) -> int:
    [(count,)] = query(settings, "select count(*) from raw.listens")
    return int(count)


def near_duplicates(extended: list[dict[str, Any]], short: list[dict[str, Any]]) -> int:
    """Count plays of the short history that begin less than a minute from one of the extended, in plain Python."""
    plays: dict[tuple[str, str], dict[int, bool]] = {}
    for record in extended:
        if record["master_metadata_track_name"] and record["ms_played"] >= 30_000:
            track = (record["master_metadata_album_artist_name"].lower(), record["master_metadata_track_name"].lower())
            start = int(datetime.fromisoformat(record["ts"]).timestamp()) - record["ms_played"] // 1000
            plays.setdefault(track, {}).setdefault(start, False)
    for record in short:
        if record["msPlayed"] >= 30_000:
            track = (record["artistName"].lower(), record["trackName"].lower())
            end = datetime.fromisoformat(record["endTime"] + "+00:00")
            plays.setdefault(track, {}).setdefault(int(end.timestamp()) - record["msPlayed"] // 1000, True)
    near = 0
    for starts in plays.values():
        placed = sorted(starts.items())
        for number, (start, is_short) in enumerate(placed):
            around = placed[max(number - 1, 0) : number] + placed[number + 1 : number + 2]
            near += is_short and any(not other and abs(start - second) < 60 for second, other in around)
    assert near > 10, "the sample was chosen to hold some"
    return near


def test_real_histories_land_with_what_was_played(module_warehouse: Settings) -> None:
    paths = [DATA / "endsong_0.json", DATA / "StreamingHistory0.json"]
    done = import_files(module_warehouse, paths, user_name="ann")
    assert outcome(done) == {"endsong_0.json": (228, 208, 0, 20), "StreamingHistory0.json": (400, 400, 0, 0)}
    records = [json.loads(path.read_bytes()) for path in paths]
    played = [record.get("ms_played", record.get("msPlayed")) for part in records for record in part]
    music = [record.get("master_metadata_track_name", "") is not None for part in records for record in part]
    expected = sorted(ms for ms, is_music in zip(played, music, strict=True) if is_music)
    assert [ms for (ms,) in query(module_warehouse, "select played_ms from raw.listens order by 1")] == expected
    assert sum(file.skipped for file in done.files) == sum(ms < 30_000 for ms in expected)
    distinct = query(module_warehouse, "select count(distinct listen_id) from raw.listens")
    assert sum(file.duplicates for file in done.files) == done.landed.listens - distinct[0][0]
    assert [file.near_duplicates for file in done.files] == [0, near_duplicates(*records)]
    notes = query(
        module_warehouse,
        "select name, format, user_name, records, landed, refused, no_music, length(content_hash), load_id is not null"
        " from raw.imported_files inner join raw._dlt_loads on load_id = _dlt_load_id order by name",
    )
    assert notes == [
        (str(paths[1]), "spotify_short", "ann", 400, 400, 0, 0, 64, True),
        (str(paths[0]), "spotify_extended", "ann", 228, 208, 0, 20, 64, True),
    ]


def test_a_file_lands_once_for_a_user_whatever_it_is_called(warehouse: Settings, tmp_path: Path) -> None:
    first, copy = write(tmp_path / "a.json", streams(3)), write(tmp_path / "b.json", streams(3))
    packed = write(tmp_path / "c.json.gz", gzip.compress(streams(3)))
    assert outcome(import_files(warehouse, [first, copy], user_name="ann")) == {
        "a.json": (3, 3, 0, 0),
        "b.json": "imported before",
    }
    assert outcome(import_files(warehouse, [copy], user_name="bob")) == {"b.json": (3, 3, 0, 0)}
    [again] = import_files(warehouse, [packed], user_name="ann").files
    assert (again.landed, again.duplicates) == (3, 3)


def test_what_is_no_history_is_refused_whole_and_the_others_go_on(warehouse: Settings, tmp_path: Path) -> None:
    write(tmp_path / "endsong_0.json", b"\x89PNG\0\0")
    write(tmp_path / "endsong_1.json", b"")
    write(tmp_path / "StreamingHistory0.json", streams(5)[:-20])
    write(tmp_path / "StreamingHistory1.json", b"\xef\xbb\xbf" + streams(2).replace(b"}, {", b"},\r\n{"))
    write(tmp_path / "latin.json", json.dumps([{**SHORT, "artistName": "é"}], ensure_ascii=False).encode("latin-1"))
    write(tmp_path / "lastfm.csv", "A,,é,23 Feb 2016 17:59\nA,,T,23 Feb 2016 17:59\nA,B\n".encode())
    write(tmp_path / "lines.jsonl", json.dumps(LISTEN).encode() + b"\n{broken\n")
    write(tmp_path / "ReadMeFirst.pdf", b"%PDF-1.7\0")
    done = import_files(warehouse, [tmp_path, tmp_path / "ReadMeFirst.pdf", tmp_path / "nowhere.json"], user_name="ann")
    found = outcome(done)
    errors = {name: found.pop(name) for name, value in list(found.items()) if isinstance(value, str)}
    assert found == {"StreamingHistory1.json": (2, 2, 0, 0), "lastfm.csv": (3, 2, 1, 0), "lines.jsonl": (2, 1, 1, 0)}
    for name, says in {
        "endsong_0.json": "it is binary",
        "endsong_1.json": "it is empty",
        "StreamingHistory0.json": "ends in the middle, in record 5",
        "latin.json": "record 1 isn't UTF-8",
        "nowhere.json": "no such file",
    }.items():
        error = errors.pop(name)
        assert says in error
        assert name in error
        assert "\n" not in error
    assert errors == {}
    assert len(done.errors) == 5
    assert landed(warehouse) == 5
    assert query(warehouse, "select position, reason from raw.quarantine order by 1") == [
        ("lastfm.csv:3", "not 8 or 4 columns"),
        ("lines.jsonl:2", "not JSON"),
    ]


def test_the_files_of_a_zip_are_looked_at_one_by_one(warehouse: Settings, tmp_path: Path) -> None:
    path = tmp_path / "my_spotify_data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Data/Streaming_History_Audio_0.json", (DATA / "endsong_0.json").read_bytes())
        archive.writestr("Data/StreamingHistory_music_0.json", streams(4))
        archive.writestr("Data/StreamingHistory_music_1.json", streams(4)[:-1])
        archive.writestr("Data/ReadMeFirst.pdf", b"%PDF\0")
        archive.writestr("__MACOSX/Data/._StreamingHistory_music_0.json", b"\0")
    done = import_files(warehouse, [path], user_name="ann")
    assert [(file.name, file.landed) for file in done.files] == [
        ("my_spotify_data.zip/Data/StreamingHistory_music_0.json", 4),
        ("my_spotify_data.zip/Data/StreamingHistory_music_1.json", 0),
        ("my_spotify_data.zip/Data/Streaming_History_Audio_0.json", 208),
    ]
    [error] = done.errors
    assert "StreamingHistory_music_1.json: ends in the middle" in error
    assert [file.was_imported for file in import_files(warehouse, [path], user_name="ann").files] == [True, False, True]


def test_a_listenbrainz_export_is_one_file(warehouse: Settings, tmp_path: Path) -> None:
    path = tmp_path / "listenbrainz_ann.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for month in range(1, 4):
            archive.writestr(
                f"listens/2020/{month}.jsonl", json.dumps({**LISTEN, "listened_at": 1_600_000_000 + month})
            )
        archive.writestr("user.json", '{"user_id": 1, "username": "Ann"}')
    done = import_files(warehouse, [path])
    assert [(file.name, file.format, file.landed) for file in done.files] == [
        ("listenbrainz_ann.zip", "listenbrainz", 3)
    ]
    assert query(warehouse, "select distinct user_name from raw.listens") == [("Ann",)]
    assert import_files(warehouse, [path]).files[0].was_imported
    assert not import_files(warehouse, [path], user_name="bob").files[0].was_imported


@pytest.mark.parametrize("member", ["../evil.json", "/etc/evil.json", "in/../../evil.json", "C:\\evil.json"])
def test_a_zip_that_leads_out_of_its_folder_is_refused(member: str, module_warehouse: Settings, tmp_path: Path) -> None:
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.json", streams(1, "evil"))
        archive.writestr(member, streams(2, "evil"))
    before = landed(module_warehouse)
    [error] = import_files(module_warehouse, [path], user_name="ann").errors
    assert "leads out of its folder" in error
    assert landed(module_warehouse) == before


def test_a_zip_bomb_is_refused(module_warehouse: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_ALWAYS_FINE", 100_000)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("StreamingHistory0.json", b"[" + b",\n".join([json.dumps(SHORT).encode()] * 50_000) + b"]")
    before = landed(module_warehouse)
    [error] = import_files(module_warehouse, [path], user_name="ann").errors
    assert "unpacks to over 200 times its size" in error
    assert landed(module_warehouse) == before


def test_a_damaged_zip_and_one_without_a_history_are_refused(module_warehouse: Settings, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello " * 100)
        archive.writestr("StreamingHistory0.json", streams(30, "zip"))
    damaged = bytearray(path.read_bytes())
    damaged[-2_000] ^= 1
    write(tmp_path / "b.zip", bytes(damaged))
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    write(tmp_path / "d.zip", path.read_bytes()[:300])
    errors = import_files(module_warehouse, [tmp_path / f"{name}.zip" for name in "bcd"], user_name="ann").errors
    expected = ["damaged or incomplete", "nothing in this zip", "a zip that is damaged or cut off"]
    assert [words in error for words, error in zip(expected, errors, strict=True)] == [True] * 3


def test_a_bad_first_line_goes_to_quarantine_as_any_other(warehouse: Settings, tmp_path: Path) -> None:
    path = write(tmp_path / "listens.jsonl", b"no json\n" + json.dumps(LISTEN).encode() + b"\n")
    [file] = import_files(warehouse, [path], user_name="ann").files
    assert (file.landed, file.refused, file.error) == (1, 1, None)


def test_a_file_that_is_still_being_written_is_refused(
    warehouse: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "BATCH_ROWS", 2)
    path = write(tmp_path / "growing.jsonl", b"".join(json.dumps(LISTEN).encode() + b"\n" for _ in range(5)))

    def somebody_writes(name: str, done: int) -> None:
        with path.open("ab") as file:
            file.write(b"\n")

    [error] = import_files(warehouse, [path], user_name="ann", progress=somebody_writes).errors
    assert "growing.jsonl: is still being written" in error
    assert landed(warehouse) == 0
    assert outcome(import_files(warehouse, [path], user_name="ann")) == {"growing.jsonl": (5, 5, 0, 0)}


def test_an_interrupted_import_goes_on_with_what_is_not_landed(warehouse: Settings, tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{number}.json", streams(number + 1, f"A{number}")) for number in range(3)]

    def stop_at_the_second(name: str, done: int) -> None:
        if name.endswith("1.json"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_files(warehouse, paths, user_name="ann", progress=stop_at_the_second)
    assert outcome(import_files(warehouse, paths, user_name="ann")) == {
        "0.json": "imported before",
        "1.json": (2, 2, 0, 0),
        "2.json": (3, 3, 0, 0),
    }
    assert landed(warehouse) == 6


def test_records_that_name_nobody_need_a_user(module_warehouse: Settings, tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.jsonl", json.dumps({**LISTEN, "user_name": "eve"}).encode())
    done = import_files(module_warehouse, [DATA / "endsong_0.json", mine])
    assert outcome(done) == {
        "endsong_0.json": f"{DATA / 'endsong_0.json'}: its records don't name their user: say whose they are with"
        " --user NAME",
        "mine.jsonl": (1, 1, 0, 0),
    }
    with pytest.raises(InputError, match="--user is blank"):
        import_files(module_warehouse, [mine], user_name=" ")


def test_a_format_that_is_asked_for_is_taken(module_warehouse: Settings, tmp_path: Path) -> None:
    path = write(tmp_path / "odd.json", b'[{"a": 1}]')
    assert "its beginning is no listening history" in import_files(module_warehouse, [path], user_name="ann").errors[0]
    done = import_files(module_warehouse, [path], user_name="ann", format="koito")
    assert "its list of records isn't at its beginning" in done.errors[0]
    done = import_files(module_warehouse, [path], user_name="ann", format="maloja")
    assert done.errors
    done = import_files(module_warehouse, [path], user_name="ann", format="spotify_short")
    assert outcome(done) == {"odd.json": (1, 0, 1, 0)}
    with pytest.raises(InputError, match="--format winamp"):
        import_files(module_warehouse, [path], user_name="ann", format="winamp")


def test_files_come_from_s3(make_warehouse: MakeWarehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        secrets = {"s3_access_key_id": "key", "s3_secret_access_key": "secret"}
        settings = make_warehouse(s3_endpoint_url=f"http://{host}:{port}", **secrets)
        remote = s3fs.S3FileSystem(key="key", secret="secret", endpoint_url=settings.s3_endpoint_url)
        remote.mkdir("histories")
        remote.pipe("histories/ann/endsong_0.json", (DATA / "endsong_0.json").read_bytes())
        remote.pipe("histories/ann/in/other.json.gz", gzip.compress(streams(2)))
        remote.pipe("histories/ann/photo.jpg", b"\xff\xd8\0")
        done = import_files(settings, ["s3://histories/ann"], user_name="ann")
        assert [(file.name, file.landed) for file in done.files] == [
            ("s3://histories/ann/endsong_0.json", 208),
            ("s3://histories/ann/in/other.json.gz", 2),
        ]
        done = import_files(settings, ["s3://histories/*/endsong*", "s3://histories/no.json"], user_name="ann")
        assert outcome(done) == {"endsong_0.json": "imported before", "no.json": "s3://histories/no.json: no such file"}
    finally:
        server.stop()


def test_files_come_from_google(make_warehouse: MakeWarehouse) -> None:
    with google_bucket() as bucket:
        settings = make_warehouse(gcs_endpoint_url=bucket.url)
        bucket.put("ann/endsong_0.json", (DATA / "endsong_0.json").read_bytes())
        bucket.put("ann/in/other.json.gz", gzip.compress(streams(2)))
        done = import_files(settings, ["gs://histories/ann"], user_name="ann")
        assert [(file.name, file.landed) for file in done.files] == [
            ("gs://histories/ann/endsong_0.json", 208),
            ("gs://histories/ann/in/other.json.gz", 2),
        ]
        done = import_files(settings, ["gs://histories/*/endsong*", "gs://histories/no.json"], user_name="ann")
        assert outcome(done) == {"endsong_0.json": "imported before", "no.json": "gs://histories/no.json: no such file"}


def test_the_shortest_play_is_the_same_here_and_in_dbt() -> None:
    project = (PROJECT_ROOT / "dbt_project" / "dbt_project.yml").read_text(encoding="utf-8")
    assert f"  min_play_seconds: {MIN_PLAY_SECONDS}\n" in project
    assert f"  near_duplicate_seconds: {NEAR_SECONDS}\n" in project


def test_a_zip_of_a_person_who_is_kept_out_is_refused_whole_also_where_it_holds_no_listen(
    warehouse: Settings, tmp_path: Path
) -> None:
    settings = warehouse.model_copy(update={"home": tmp_path / "home"})
    with connect(settings.credentials("loader")) as connection:
        block(connection, settings, "Ann")
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("user.json", '{"username": "ann"}')
        archive.writestr("listens/2020/1.jsonl", '{"listened_at": 5, "track_metadata": {}}\n')
    [file] = import_files(settings, [tmp_path / "export.zip"]).files
    assert "--allow" in str(file.error)
    assert query(settings, "select count(*) from raw.quarantine") == [(0,)]
