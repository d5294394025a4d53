"""Each format: how it is recognised, and what it makes of its records."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from helpers import DATA

from extract.exports.format import Head
from extract.exports.formats import FORMATS, detect, format_called, refuse
from extract.exports.plays import PlayBuilder, length_ms
from extract.rows import RowBuilder
from music_pulse.errors import InputError

MBID = "9cea062d-d476-447f-98b4-e67e14bfd1e4"
OTHER_MBID = "dda7e98b-6d8d-4c95-9673-b5902e7043e5"

STREAM = {
    "ts": "2022-12-01T00:03:07Z",
    "username": "who",
    "ms_played": 187_342,
    "ip_addr_decrypted": "192.0.2.1",
    "master_metadata_track_name": "Daydreaming",
    "master_metadata_album_artist_name": "Harry Styles",
    "master_metadata_album_album_name": "Harry's House",
    "spotify_track_uri": "spotify:track:0uoyRcSBbBsHFpMHmYBJ0j",
    "reason_start": "trackdone",
    "reason_end": "fwdbtn",
    "shuffle": True,
    "skipped": None,
    "offline_timestamp": 1,
}
SHORT = {"endTime": "2022-12-01 00:03", "artistName": "A", "trackName": "T", "msPlayed": 60_500}
TRACK = {
    "artist": {"mbid": MBID, "#text": "A"},
    "mbid": "",
    "album": {"mbid": OTHER_MBID, "#text": "L"},
    "name": "T",
    "date": {"uts": "1600000000", "#text": "13 Sep 2020, 12:26"},
}
PLAYING = {"artist": {"#text": "A"}, "mbid": "", "name": "T", "@attr": {"nowplaying": "true"}}
LONG_CSV = "uts,utc_time,artist,artist_mbid,album,album_mbid,track,track_mbid"
SCROBBLE = {
    "time": 1_600_000_000,
    "track": {"artists": ["A", "B"], "title": "T", "album": {"artists": ["A"], "albumtitle": "L"}, "length": 200},
    "duration": 90,
    "origin": "client:web",
}


def koito(name: str, mbid: str | None = None, **more: Any) -> dict[str, Any]:
    aliases = [{"alias": "other", "is_primary": False}, {"alias": name, "is_primary": True}]
    return {"mbid": mbid, "aliases": aliases, **more}


KOITO = {
    "listened_at": "2022-01-08T22:32:08Z",
    "client": "web",
    "track": koito("T", duration=354),
    "album": koito("L", OTHER_MBID),
    "artists": [koito("A", MBID), koito("B")],
}
LISTEN = {"listened_at": 1_600_000_000, "track_metadata": {"artist_name": "A", "track_name": "T"}}


def csv_text(*rows: list[str]) -> str:
    text = StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


FILES = {
    "spotify_extended": json.dumps([STREAM]),
    "spotify_short": json.dumps([SHORT], indent=2),
    "lastfm_json": json.dumps([{"track": [PLAYING, TRACK], "@attr": {"page": "1"}}]),
    "lastfm_csv": LONG_CSV + "\n" + csv_text(["1600000000", "x", "A", MBID, "L", OTHER_MBID, "T", ""]),
    "maloja": json.dumps({"maloja": {"export_time": 1}, "scrobbles": [SCROBBLE]}, indent=3),
    "koito": json.dumps({"version": "1", "user": "who", "listens": [KOITO]}),
    "listenbrainz": json.dumps(LISTEN) + "\n",
}


def rows_of(name: str, content: str | bytes) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """Return what is landed and refused, and how many records are no music."""
    form = FORMATS[name]
    builder = form.builder(form.source, origin="file", user_name="ann", clock=lambda: 1_700_000_000.0)
    data = content if isinstance(content, bytes) else content.encode()
    for _ in form.read(BytesIO(data), "file", builder):
        assert isinstance(builder, RowBuilder)
    rows = builder.take()
    return rows.listens.to_pylist(), rows.quarantine.to_pylist(), builder.passed_over


def told(name: str, content: str) -> list[dict[str, Any]]:
    """Return what the landed rows tell, without ids and what is unknown."""
    kept = ("listened_at", "artist_name", "track_name", "album", "duration_ms", "played_ms", "recording_mbid")
    kept += ("release_mbid", "artist_mbids", "submission_client", "additional_info", "user_name", "source")
    return [{key: row[key] for key in kept if row[key] is not None} for row in rows_of(name, content)[0]]


def at(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)


def test_every_format_is_recognised_by_its_content_alone() -> None:
    assert FILES.keys() == FORMATS.keys()
    for name, content in FILES.items():
        for data in (content.encode(), b"\xef\xbb\xbf" + content.encode(), content.replace("\n", "\r\n").encode()):
            assert detect(Head("anything.txt", data)) is FORMATS[name]


@pytest.mark.parametrize("content", ["", "[]", "[1, 2]", "{}", "a,b,c,d\n", "%PDF-1.7", "[" * 100_000, '{"a": ['])
def test_other_content_is_of_no_format(content: str) -> None:
    assert detect(Head("some.json", content.encode())) is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b" \n", "it is empty: it holds no listens"),
        (json.dumps([STREAM]).encode("utf-16"), "it is in UTF-16: save it in UTF-8"),
        (bytes(range(256)), "it is binary"),
        (b"[caf\xe9 " + b"x" * 99, "it isn't in UTF-8"),
        (b"[]", "its beginning is no listening history"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(InputError, match=f"my.zip/endsong_3.json: called like a file of spotify_extended, but {says}"):
        detect(Head("my.zip/endsong_3.json", content))
    with pytest.raises(InputError, match=rf"x: {says} \(formats: listenbrainz, spotify_extended"):
        refuse(Head("x", content))


def test_only_known_formats_can_be_asked_for() -> None:
    assert format_called("koito").name == "koito"
    with pytest.raises(InputError, match="--format winamp: it is one of listenbrainz, "):
        format_called("winamp")


def test_an_extended_stream_starts_when_it_ended_less_what_was_played() -> None:
    podcast = {**STREAM, "master_metadata_track_name": None, "episode_name": "E"}
    [play] = told("spotify_extended", json.dumps([STREAM, podcast]))
    assert play == {
        "listened_at": datetime(2022, 12, 1, 0, 0, tzinfo=UTC),
        "artist_name": "Harry Styles",
        "track_name": "Daydreaming",
        "album": "Harry's House",
        "played_ms": 187_342,
        "additional_info": '{"reason_end":"fwdbtn","reason_start":"trackdone","shuffle":true,'
        '"spotify_track_uri":"spotify:track:0uoyRcSBbBsHFpMHmYBJ0j"}',
        "user_name": "ann",
        "source": "spotify_extended",
    }
    assert rows_of("spotify_extended", json.dumps([STREAM, podcast]))[2] == 1


def test_what_is_kept_of_a_stream_beside_the_play_is_always_json() -> None:
    strange = {**STREAM, "spotify_track_uri": 'a"b', "reason_end": 'x"', "shuffle": False}
    plain = {**STREAM, "reason_start": None, "reason_end": None, "shuffle": None}
    nothing = {**plain, "spotify_track_uri": None}
    infos = [play.get("additional_info") for play in told("spotify_extended", json.dumps([strange, plain, nothing]))]
    assert infos[2] is None
    assert [json.loads(info) for info in infos[:2] if info] == [
        {"spotify_track_uri": 'a"b', "reason_start": "trackdone", "reason_end": 'x"'},
        {"spotify_track_uri": STREAM["spotify_track_uri"]},
    ]


def test_a_short_stream_is_known_to_the_minute() -> None:
    assert told("spotify_short", json.dumps([SHORT])) == [
        {
            "listened_at": datetime(2022, 12, 1, 0, 2, tzinfo=UTC),
            "artist_name": "A",
            "track_name": "T",
            "played_ms": 60_500,
            "user_name": "ann",
            "source": "spotify_short",
        }
    ]


LASTFM = {
    "listened_at": at(1_600_000_000),
    "artist_name": "A",
    "track_name": "T",
    "album": "L",
    "release_mbid": UUID(OTHER_MBID).bytes,
    "artist_mbids": f'["{MBID}"]',
    "user_name": "ann",
    "source": "lastfm",
}


@pytest.mark.parametrize(
    "document",
    [
        [{"track": [PLAYING, TRACK], "@attr": {"page": "1"}}],
        [{"recenttracks": {"track": [PLAYING, TRACK]}}],
        {"recenttracks": {"track": [PLAYING, TRACK], "@attr": {"page": "1"}}},
        [PLAYING, TRACK],
        [{"recenttracks": {"track": TRACK}}, {"recenttracks": {"track": PLAYING}}],
    ],
)
def test_lastfm_pages_in_any_of_their_forms(document: Any) -> None:
    assert detect(Head("x", json.dumps(document).encode())) is FORMATS["lastfm_json"]
    assert told("lastfm_json", json.dumps(document)) == [LASTFM]
    assert rows_of("lastfm_json", json.dumps(document))[1:] == ([], 1)


def test_lastfm_csv_in_both_forms() -> None:
    assert told("lastfm_csv", FILES["lastfm_csv"]) == [LASTFM]
    short = csv_text(["A", "", "T, too", "13 Sep 2020 12:26"], ["A", "L", "T", "13 Sep 2020, 12:26"])
    expected = {"listened_at": at(1_599_999_960), "artist_name": "A", "user_name": "ann", "source": "lastfm"}
    plays = [{**expected, "track_name": "T, too"}, {**expected, "track_name": "T", "album": "L"}]
    assert told("lastfm_csv", short) == plays
    assert told("lastfm_csv", "artist,album,track,date\r\n" + short) == plays
    assert detect(Head("x", short.encode())) is FORMATS["lastfm_csv"]
    assert rows_of("lastfm_csv", LONG_CSV + '\n,"","A","","","","T",""\n')[1:] == ([], 1)


def test_a_maloja_scrobble_says_how_long_it_was_played() -> None:
    api = json.dumps({"status": "ok", "list": [{**SCROBBLE, "duration": None}]})
    expected = {
        "listened_at": at(1_600_000_000),
        "artist_name": "A, B",
        "track_name": "T",
        "album": "L",
        "duration_ms": 200_000,
        "submission_client": "client:web",
        "user_name": "ann",
        "source": "maloja",
    }
    assert told("maloja", FILES["maloja"]) == [{**expected, "played_ms": 90_000}]
    assert detect(Head("x", api.encode())) is FORMATS["maloja"]
    assert told("maloja", api) == [expected]


def test_a_koito_listen_goes_by_its_primary_names_and_no_artist_is_left_out() -> None:
    one = {**KOITO, "artists": [koito("A", MBID)], "track": koito("T", MBID, duration=0)}
    expected = {
        "listened_at": datetime(2022, 1, 8, 22, 32, 8, tzinfo=UTC),
        "track_name": "T",
        "album": "L",
        "release_mbid": UUID(OTHER_MBID).bytes,
        "submission_client": "web",
        "user_name": "ann",
        "source": "koito",
    }
    assert told("koito", json.dumps({"listens": [KOITO, one]})) == [
        {**expected, "artist_name": "A, B", "duration_ms": 354_000},
        {**expected, "artist_name": "A", "artist_mbids": f'["{MBID}"]', "recording_mbid": UUID(MBID).bytes},
    ]


@pytest.mark.parametrize(
    ("name", "record", "reason"),
    [
        ("spotify_extended", {**STREAM, "ts": "yesterday"}, r"Invalid RFC3339 encoded datetime - at `$.ts`"),
        ("spotify_extended", {**STREAM, "ts": "2022-12-01T00:03:07"}, None),
        ("spotify_extended", {**STREAM, "ts": "1999-12-01T00:03:07Z"}, "listened_at is before 2002-10-01"),
        ("spotify_extended", {**STREAM, "ts": "2999-12-01T00:03:07Z"}, "listened_at is in the future"),
        ("spotify_extended", {**STREAM, "ms_played": -1}, None),
        ("spotify_extended", {**STREAM, "master_metadata_album_artist_name": None}, "artist_name is missing"),
        ("spotify_extended", {**STREAM, "master_metadata_track_name": " "}, "track_name is blank"),
        ("spotify_extended", {"ts": 1}, None),
        ("spotify_extended", 5, "Expected `object`, got `int`"),
        ("spotify_short", {**SHORT, "endTime": "soon"}, "its time can't be read"),
        ("spotify_short", {**SHORT, "artistName": "\ud800"}, None),
        ("spotify_short", {**SHORT, "artistName": "a\0"}, "artist_name has a NUL or a lone surrogate"),
        ("lastfm_json", {**TRACK, "date": {"uts": "soon"}}, "listened_at is not a number"),
        ("lastfm_json", {**TRACK, "date": None}, "listened_at is missing"),
        ("lastfm_json", {**TRACK, "date": {"uts": "9" * 5_000}}, None),
        ("maloja", {**SCROBBLE, "track": {"artists": [], "title": "T"}}, "artists is empty"),
        ("koito", {**KOITO, "artists": []}, "artist_name is missing"),
        ("lastfm_json", {**TRACK, "artist": 5}, "Expected `object`, got `int` - at `$.artist`"),
        (
            "maloja",
            {**SCROBBLE, "track": {"artists": ["A"], "title": 7}},
            "Expected `str`, got `int` - at `$.track.title`",
        ),
        ("koito", {**KOITO, "album": {"mbid": 7}}, "Expected `str | null`, got `int` - at `$.album.mbid`"),
        ("koito", {**KOITO, "artists": [{"mbid": 7}]}, "Expected `str | null`, got `int` - at `$.artists[0].mbid`"),
    ],
)
def test_a_record_that_is_no_listen_is_kept_with_the_reason(name: str, record: Any, reason: str | None) -> None:
    paths = {"maloja": "scrobbles", "koito": "listens"}
    good = json.loads(FILES[name])
    good = good[paths[name]] if name in paths else good
    records = [*good, record]
    content = json.dumps({paths[name]: records} if name in paths else records)
    listens, [refused], _ = rows_of(name, content)
    assert len(listens) == 1
    assert refused["position"] == f"file:{len(records) + (name == 'lastfm_json')}"
    assert json.loads(refused["payload"].replace("\\u0000", "")) is not None
    assert refused["reason"] == reason or reason is None
    assert "\n" not in refused["reason"]


@pytest.mark.parametrize(
    "odd",
    [
        [],
        [{**STREAM, "master_metadata_track_name": None}],
        [{**STREAM, "master_metadata_album_album_name": " "}],
        [{**STREAM, "ts": "2023-11-14T22:20:00Z"}, {**STREAM, "ts": "2024-01-01T00:00:00Z"}],
        [{**STREAM, "master_metadata_album_artist_name": None}, {**STREAM, "ms_played": -1}, 7],
    ],
)
def test_records_added_in_one_go_are_as_those_added_one_by_one(odd: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.dumps([{**STREAM, "master_metadata_track_name": f"T{n % 3}"} for n in range(9)] + odd + [STREAM])
    in_one_go = rows_of("spotify_extended", content)
    monkeypatch.setattr(PlayBuilder, "_add_all", lambda *_: False)
    assert rows_of("spotify_extended", content) == in_one_go
    assert len(in_one_go[0]) >= 10


@pytest.mark.parametrize(
    ("other", "landed"),
    [({"track": [TRACK] * 2}, 2), ({"track": TRACK}, 1), (TRACK, 1), ({}, 0), ({"track": 7}, 0), (7, 0)],
)
def test_a_page_of_another_form_does_not_touch_the_others(
    other: Any, landed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.exports.json_array.CHUNK", 1_000)
    page = {"track": [TRACK] * 2, "@attr": {"page": "1"}}
    listens, refused, _ = rows_of("lastfm_json", json.dumps([page, page, other, page, page, page]))
    assert (len(listens), len(refused)) == (10 + landed, 0 if landed else 1)


def test_bad_csv_rows_and_broken_json_are_kept_as_they_stand() -> None:
    _, refused, _ = rows_of("lastfm_csv", LONG_CSV + "\n1,2,3\nsoon,x,A,,,,T,\n")
    assert [(row["position"], row["reason"], row["payload"]) for row in refused] == [
        ("file:2", "not 8 or 4 columns", "1,2,3"),
        ("file:3", "listened_at is not a number", "soon,x,A,,,,T,"),
    ]
    _, refused, _ = rows_of("lastfm_csv", csv_text(["A", "L", "T", "99999999999 Feb 2016 17:59"]))
    assert [row["reason"] for row in refused] == ["its time can't be read"]
    broken = json.dumps([STREAM]).encode()[:-1] + b', {"ts": nonsense}]'
    listens, [row], _ = rows_of("spotify_extended", broken)
    assert (len(listens), row["reason"], row["payload"]) == (1, "not JSON", '{"ts": nonsense}')


def test_a_file_in_another_encoding_is_refused_whole() -> None:
    with pytest.raises(InputError, match="record 1 isn't UTF-8: save the file in that encoding"):
        rows_of("spotify_short", json.dumps([{**SHORT, "artistName": "café"}], ensure_ascii=False).encode("latin-1"))


def test_the_real_samples_are_read_whole() -> None:
    for name, file, counts in (("spotify_extended", "endsong_0.json", (208, 0, 20)),
                               ("spotify_short", "StreamingHistory0.json", (400, 0, 0))):  # fmt: skip
        path = Path(DATA / file)
        assert detect(Head("x", path.read_bytes())) is FORMATS[name]
        listens, refused, passed_over = rows_of(name, path.read_bytes())
        assert (len(listens), len(refused), passed_over) == counts
        records = [record for record in json.loads(path.read_bytes()) if record.get("master_metadata_track_name", 1)]
        assert [row["played_ms"] for row in listens] == [
            record.get("ms_played", record.get("msPlayed")) for record in records
        ]


def test_names_are_validated_once_and_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.exports.plays._CACHE_SIZE", 2)
    records = [{**SHORT, "trackName": f"T{number % 7}", "artistName": f"A{number}"} for number in range(20)]
    assert len(told("spotify_short", json.dumps(records))) == 20
    assert issubclass(PlayBuilder, RowBuilder)


@pytest.mark.parametrize(
    ("seconds", "length"),
    [(None, None), (0, None), (0.5e-3, None), (354, 354_000), (-1, None), (1e308, None), (float("nan"), None)],
)
def test_a_length_that_no_track_can_have_is_unknown(seconds: float | None, length: int | None) -> None:
    assert length_ms(seconds) == length
