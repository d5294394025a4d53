"""Export files of every format to raw.listens, and on to tested marts: a process, a file and a database each.

The speed of a shared machine changes within the run. So each database also takes rows by plain COPY, half of them
before the import and half after it: `of COPY` is the import's rate as a share of that.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pyarrow as pa

from benchmarks.batch import plain_copy
from benchmarks.measure import Cost, alone, measured, table_of
from extract.synthetic.generator import Plan, generate
from music_pulse import run as steps
from music_pulse.settings import Settings, load_settings
from music_pulse.stack import warehouse

USER = "ann"
COPIED = 200_000
QUIET = 96_591
"""Rows that plain COPY takes in a CPU-second when nobody else is at work (`landing` in README.md, 2026-11-21)."""
TO_RAW, TO_MARTS = 50_000, 20_000
"""Targets, in rows per CPU-second."""


def bench_imports(folder: Path, rows: int) -> str:
    """Rows per CPU-second, client and server together, from a file to raw, and from a file to tested marts."""
    lines = []
    for name in WRITERS:
        path = folder / name
        alone(write_export, path, name, rows)
        landing, build, copying = alone(_import, folder / f"home-{name}", path)
        size = f"{path.stat().st_size / 2**20:,.0f}"
        peak = f"{max(landing.peak_mib, build.peak_mib):,.0f}"
        costs = [f"{cost:.1f}" for cost in (landing.client, landing.server, build.client, build.server)]
        rates = [rows / cost for cost in (landing.cpu, landing.cpu + build.cpu)]
        copied = COPIED / copying
        shares = [f"{rate / copied:.2f}" for rate in rates]
        lines.append([name, size, *costs, peak, *(f"{rate:,.0f}" for rate in (*rates, copied)), *shares])
        path.unlink()
        shutil.rmtree(folder / f"home-{name}")
    columns = ["format", "file, MiB", "to raw: client CPU s", "server", "to marts: client CPU s", "server"]
    columns += ["peak MiB, client and server", "rows / CPU s, to raw", "to tested marts", "COPY"]
    columns += ["of COPY, to raw", "to tested marts"]
    verdict = (
        f"Targets, in rows per CPU-second: {TO_RAW:,} from a file to raw, {TO_MARTS:,} from a file to tested marts; as "
        f"shares of a COPY of {QUIET:,}, which is that of a quiet machine: {TO_RAW / QUIET:.2f} and "
        f"{TO_MARTS / QUIET:.2f}."
    )
    return table_of(f"Importing {rows:,} listens", columns, lines, verdict)


def _import(home: Path, path: Path) -> tuple[Cost, Cost, float]:
    """Return what landing and building cost, and the CPU-seconds of `COPIED` rows by plain COPY."""
    with warehouse(load_settings(home=home)) as settings:
        copying = alone(_copying, settings)
        with measured(home) as landing:
            steps.land_files(settings, [path], USER)
        with measured(home) as build:
            steps.build(settings)
        copying += alone(_copying, settings)
    return landing, build, copying


def _copying(settings: Settings) -> float:
    """Return the CPU-seconds of half of `COPIED` rows; in a process of its own, since it holds them in memory."""
    return plain_copy(settings, [batch.listens for batch in generate(Plan(listens=COPIED // 2))]).cpu


def write_export(path: Path, name: str, rows: int) -> None:
    """Write invented listens as an export file of the format `name`."""
    with path.open("wb") as file:
        file.writelines(WRITERS[name](_listens(rows)))


def _listens(rows: int) -> Iterator[tuple[int, str, str, str | None, int | None]]:
    for batch in generate(Plan(listens=rows)):
        table = batch.listens
        seconds = table["listened_at"].cast(pa.timestamp("s", tz="UTC")).cast(pa.int64()).to_pylist()
        columns = [table[name].to_pylist() for name in ("artist_name", "track_name", "album", "duration_ms")]
        yield from zip(seconds, *columns, strict=True)


Listens = Iterable[tuple[int, str, str, str | None, int | None]]


def _array(records: Iterable[Any], before: bytes = b"[", after: bytes = b"]") -> Iterator[bytes]:
    yield before
    separator = b""
    for record in records:
        yield separator + orjson.dumps(record)
        separator = b",\n"
    yield after


def _listenbrainz(listens: Listens) -> Iterator[bytes]:
    for second, artist, track, album, length in listens:
        info = {"duration_ms": length} if length else {}
        metadata = {"artist_name": artist, "track_name": track, "release_name": album, "additional_info": info}
        yield orjson.dumps({"listened_at": second, "track_metadata": metadata}) + b"\n"


def _spotify_extended(listens: Listens) -> Iterator[bytes]:
    def record(second: int, artist: str, track: str, album: str | None, length: int | None) -> dict[str, Any]:
        played = length or 200_000
        return {
            "ts": _iso(second + played // 1000) + "Z",
            "platform": "Android OS 12 API 32 (Google, Pixel 5)",
            "ms_played": played,
            "conn_country": "DE",
            "ip_addr": "192.0.2.1",
            "master_metadata_track_name": track,
            "master_metadata_album_artist_name": artist,
            "master_metadata_album_album_name": album or "",
            "spotify_track_uri": f"spotify:track:{abs(hash(track)):022d}",
            "episode_name": None,
            "episode_show_name": None,
            "spotify_episode_uri": None,
            "reason_start": "trackdone",
            "reason_end": "trackdone",
            "shuffle": False,
            "skipped": False,
            "offline": False,
            "offline_timestamp": second,
            "incognito_mode": False,
        }

    return _array(record(*listen) for listen in listens)


def _spotify_short(listens: Listens) -> Iterator[bytes]:
    return _array(
        {
            "endTime": _iso(second)[:16].replace("T", " "),
            "artistName": artist,
            "trackName": track,
            "msPlayed": length or 200_000,
        }
        for second, artist, track, _, length in listens
    )


def _lastfm_json(listens: Listens) -> Iterator[bytes]:
    tracks: list[dict[str, Any]] = []

    def pages() -> Iterator[dict[str, Any]]:
        for second, artist, track, album, _ in listens:
            tracks.append(
                {
                    "artist": {"mbid": _mbid(artist), "#text": artist},
                    "streamable": "0",
                    "image": [
                        {
                            "size": size,
                            "#text": "https://lastfm.freetls.fastly.net/i/u/64s/2a96cbd8b46e442fc41c2b86b8.png",
                        }
                        for size in ("small", "medium", "large", "extralarge")
                    ],
                    "mbid": _mbid(track),
                    "album": {"mbid": _mbid(album or ""), "#text": album or ""},
                    "name": track,
                    "url": "https://www.last.fm/music/Artist/_/Track",
                    "date": {"uts": str(second), "#text": "01 Jan 2020, 00:00"},
                }
            )
            if len(tracks) == 1_000:
                yield {"track": tracks.copy(), "@attr": {"page": "1"}}
                tracks.clear()
        yield {"track": tracks, "@attr": {"page": "1"}}

    return _array(pages())


def _lastfm_csv(listens: Listens) -> Iterator[bytes]:
    yield b"uts,utc_time,artist,artist_mbid,album,album_mbid,track,track_mbid\n"
    for second, artist, track, album, _ in listens:
        row = [
            second,
            "01 Jan 2020, 00:00",
            artist,
            _mbid(artist),
            album or "",
            _mbid(album or ""),
            track,
            _mbid(track),
        ]
        yield _csv_row(row, csv.QUOTE_ALL)


def _lastfm_short_csv(listens: Listens) -> Iterator[bytes]:
    for second, artist, track, album, _ in listens:
        yield _csv_row([artist, album or "", track, f"{datetime.fromtimestamp(second, UTC):%d %b %Y %H:%M}"])


def _maloja(listens: Listens) -> Iterator[bytes]:
    records = (
        {
            "time": second,
            "track": {
                "artists": [artist],
                "title": track,
                "album": {"artists": [artist], "albumtitle": album} if album else None,
                "length": length and length // 1000,
            },
            "duration": None,
            "origin": "client:default",
            "extra": {},
        }
        for second, artist, track, album, length in listens
    )
    return _array(records, b'{"maloja": {"export_time": 1700000000}, "scrobbles": [', b"]}")


def _koito(listens: Listens) -> Iterator[bytes]:
    def aliases(name: str) -> list[dict[str, Any]]:
        return [{"alias": name, "source": "Canonical", "is_primary": True}]

    records = (
        {
            "listened_at": _iso(second) + "Z",
            "client": "client",
            "track": {"mbid": _mbid(track), "duration": (length or 0) // 1000, "aliases": aliases(track)},
            "album": {
                "image_url": "",
                "mbid": _mbid(album or ""),
                "aliases": aliases(album or "A"),
                "various_artists": False,
            },
            "artists": [{"image_url": "", "mbid": _mbid(artist), "is_primary": True, "aliases": aliases(artist)}],
        }
        for second, artist, track, album, length in listens
    )
    return _array(records, b'{"version": "1", "user": "ann", "listens": [', b"]}")


def _csv_row(row: list[Any], quoting: Any = csv.QUOTE_MINIMAL) -> bytes:
    text = StringIO()
    csv.writer(text, lineterminator="\n", quoting=quoting).writerow(row)
    return text.getvalue().encode()


def _iso(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _mbid(name: str) -> str:
    """Return some MBID of a name; for two in five it is unknown."""
    number = sum(name.encode()) * 2_654_435_761 + len(name)
    return str(UUID(int=number)) if number % 5 > 1 else ""


WRITERS: dict[str, Callable[[Listens], Iterator[bytes]]] = {
    "listenbrainz.jsonl": _listenbrainz,
    "endsong_0.json": _spotify_extended,
    "StreamingHistory0.json": _spotify_short,
    "lastfm.json": _lastfm_json,
    "recenttracks.csv": _lastfm_csv,
    "lastfm.csv": _lastfm_short_csv,
    "maloja_export.json": _maloja,
    "koito_export.json": _koito,
}
"""By file name."""
