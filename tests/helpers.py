"""What the integration tests share: lines in, marts out."""

from __future__ import annotations

import gc
import gzip
import json
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from reference import Expected

from extract.exports import import_files
from extract.pipeline import Landed
from music_pulse import transform
from music_pulse.database import connect
from music_pulse.settings import Settings

MakeWarehouse = Callable[..., Settings]
"""Makes settings that lead to a fresh, prepared database; takes settings to override."""

DATA = Path(__file__).parent / "data"
SAMPLE = DATA / "spotify_history_sample.jsonl.gz"

MARTS = (
    "listen_events", "tracks", "artists", "user_daily_tracks", "daily_aggregates", "daily_top", "reconciliation",
    "near_duplicates", "entity_redirects", "user_daily_hours", "user_sessions", "user_discoveries", "user_streaks",
)  # fmt: skip
TABLES = (
    "marts.tracks",
    "marts.artists",
    "marts.user_daily_tracks",
    "marts.user_daily_hours",
    "marts.user_sessions",
    "marts.user_discoveries",
    "intermediate.int_listens_deduplicated",
    "intermediate.int_daily_metrics",
    "intermediate.int_daily_ranks",
)
"""Where the incremental models store."""

_WHEN_WRITTEN = {"updated_at", "changed_at"}


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that are free now, all different."""
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def listen(
    listened_at: Any,
    track: Any = "Track",
    artist: Any = "Artist",
    *,
    user: Any = "ann",
    album: Any = None,
    ms: Any = None,
    **top: Any,
) -> dict[str, Any]:
    """Return a listen in ListenBrainz' form; what is None is left out."""
    metadata: dict[str, Any] = {"artist_name": artist, "track_name": track}
    if album is not None:
        metadata["release_name"] = album
    if ms is not None:
        metadata["additional_info"] = {"duration_ms": ms}
    return {"user_name": user, "listened_at": listened_at, "track_metadata": metadata, **top}


def to_lines(listens: Iterable[Any]) -> list[bytes]:
    """Encode listens, one a line; bytes stay as they are."""
    return [item if isinstance(item, bytes) else json.dumps(item, ensure_ascii=True).encode() for item in listens]


def sample_lines() -> list[bytes]:
    """Return the lines of the real sample."""
    with gzip.open(SAMPLE, "rb") as file:
        return file.read().splitlines()


def write_lines(path: Path, lines: Iterable[bytes]) -> Path:
    """Write JSON lines."""
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def load(settings: Settings, folder: Path, listens: Iterable[Any]) -> Landed:
    """Land listens (or encoded lines) as one load, through a file."""
    path = folder / f"load_{len(list(folder.iterdir()))}.jsonl"
    return import_files(settings, [write_lines(path, to_lines(listens))]).landed


def build(settings: Settings, *, full_refresh: bool = False, **dbt_vars: Any) -> None:
    """Build and test the marts, as `pulse run` does."""
    warm_dbt(settings)
    used = settings.model_copy(update={"dbt_vars": {**settings.dbt_vars, **dbt_vars}})
    transform.build(used, full_refresh=full_refresh)


def dbt(settings: Settings, *arguments: str) -> bool:
    """Run another command of dbt; return whether all nodes ended well. Fails if it got to no node."""
    results = transform.target_path(settings) / "run_results.json"
    results.unlink(missing_ok=True)
    code = transform._run_here(settings, arguments, lambda _: None)
    assert results.exists()
    return code == 0


def warm_dbt(settings: Settings) -> None:
    """Let this process run dbt itself from here on, as Airflow's does: half of a small build is dbt's start."""
    if not transform._runs_here:
        transform.warm_up(settings)
    gc.unfreeze()  # each run freezes what it finds: garbage of the one before, too


def query(
    settings: Settings, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
) -> list[tuple[Any, ...]]:
    """Run a query as the admin."""
    with connect(settings.credentials("admin"), autocommit=True) as connection:
        return connection.execute(statement.encode(), parameters or None).fetchall()


def execute(settings: Settings, statement: str, parameters: Sequence[Any] = ()) -> None:
    """Run a statement as the admin."""
    with connect(settings.credentials("admin"), autocommit=True) as connection:
        connection.execute(statement.encode(), parameters or None)


def mart(settings: Settings, relation: str, where: str = "true") -> list[dict[str, Any]]:
    """Read a mart as dicts, uuids as text."""
    from psycopg.rows import dict_row

    name = relation if "." in relation else f"marts.{relation}"
    with connect(settings.credentials("admin")) as connection, connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(f"select * from {name} where {where}".encode()).fetchall()
    return [{key: str(value) if isinstance(value, UUID) else value for key, value in row.items()} for row in rows]


def checksums(settings: Settings) -> dict[str, str]:
    """Return rows and a checksum of every mart, without the columns that say when a row was written."""
    found = {}
    for name in MARTS:
        columns = [
            f'"{column}"'
            for (column,) in query(
                settings,
                "select column_name from information_schema.columns"
                " where table_schema = 'marts' and table_name = %s order by ordinal_position",
                [name],
            )
            if column not in _WHEN_WRITTEN
        ]
        [(checksum,)] = query(
            settings,
            f"""
            select count(*) || ' ' || coalesce(md5(string_agg(line, '' order by line collate "C")), '')
            from (select cast(row({", ".join(columns)}) as text) as line from marts.{name}) as x
            """,
        )
        found[name] = str(checksum)
    return found


def row_versions(settings: Settings) -> dict[str, set[tuple[str, str]]]:
    """Return where each stored row lies and which transaction wrote it: rewriting any row shows."""
    return {table: set(query(settings, f"select ctid::text, xmin::text from {table}")) for table in TABLES}


def assert_marts_are(settings: Settings, expected: Expected) -> None:
    """Compare every mart, whole, with the reference."""
    assert _events(settings) == {
        listen_id: (
            row.user_id, datetime.fromtimestamp(row.listened_at, UTC), row.artist, row.track, row.album,
            row.duration_ms, row.recording_msid, row.recording_mbid, row.track_id, row.artist_id,
            expected.days[listen_id],
        )
        for listen_id, row in expected.listens.items()
    }  # fmt: skip
    assert _without(mart(settings, "tracks"), "track_id") == expected.tracks()
    assert _without(mart(settings, "artists"), "artist_id", "artist_mbids") == expected.artists()
    daily = {
        (row["day"], row["user_id"], row["track_id"]): (
            row["listens"], pytest.approx(row["minutes_listened"]), row["listens_without_duration"],
        )
        for row in mart(settings, "user_daily_tracks")
    }  # fmt: skip
    assert daily == expected.user_daily_tracks()
    aggregates = {
        (row["day"], row["metric"], row["dimension"]): row["value"] for row in mart(settings, "daily_aggregates")
    }
    assert aggregates == pytest.approx(expected.aggregates())
    redirects = {row["id"]: row["canonical_id"] for row in mart(settings, "entity_redirects")}
    assert redirects == expected.redirects
    repeated = {row["listen_id"]: row["near_duplicate_of"] for row in mart(settings, "near_duplicates")}
    assert repeated == expected.near_duplicates
    assert_top_is(settings, expected)
    assert_rhythm_is(settings, expected)


def assert_rhythm_is(settings: Settings, expected: Expected) -> None:
    """Compare hours, sessions, discoveries and streaks."""
    assert {
        (row["user_id"], row["day"], row["hour"]): (row["listens"], pytest.approx(row["minutes_listened"]))
        for row in mart(settings, "user_daily_hours")
    } == expected.user_daily_hours()
    assert {
        (row["user_id"], int(row["started_at"].timestamp())): (
            int(row["ended_at"].timestamp()), row["day"], row["listens"], pytest.approx(row["minutes_listened"]),
        )
        for row in mart(settings, "user_sessions")
    } == expected.user_sessions()  # fmt: skip
    assert {
        (row["user_id"], row["artist_id"]): row["first_day"] for row in mart(settings, "user_discoveries")
    } == expected.user_discoveries()
    assert {
        (row["user_id"], row["first_day"]): (row["last_day"], row["days"]) for row in mart(settings, "user_streaks")
    } == expected.user_streaks()


def assert_top_is(settings: Settings, expected: Expected) -> None:
    """Compare daily_top: order, counts and names."""
    top: dict[Any, list[Any]] = defaultdict(list)
    for row in sorted(mart(settings, "daily_top"), key=lambda row: row["rank"]):
        top[row["day"], row["kind"]].append((row["id"], row["listens"], pytest.approx(row["minutes_listened"])))
        assert row["rank"] == len(top[row["day"], row["kind"]])
    assert top == expected.top(50)
    names = expected.names()
    for row in mart(settings, "daily_top"):
        assert (row["name"], row["artist_name"]) == names[row["kind"], row["id"]]


def _events(settings: Settings) -> dict[str, Any]:
    columns = (
        "user_id", "played_at_ts", "artist", "track", "album", "duration_ms", "recording_msid", "recording_mbid",
        "track_id", "artist_id", "day",
    )  # fmt: skip
    return {row["listen_id"]: tuple(row[name] for name in columns) for row in mart(settings, "listen_events")}


def _without(rows: list[dict[str, Any]], key: str, *dropped: str) -> dict[str, dict[str, Any]]:
    return {row.pop(key): {name: value for name, value in row.items() if name not in dropped} for row in rows}


def load_ids(settings: Settings) -> list[str]:
    """Return the committed loads that hold listens, oldest first."""
    rows = query(
        settings,
        "select load_id from raw._dlt_loads where load_id in (select _dlt_load_id from raw.listens) order by 1",
    )
    return [load_id for (load_id,) in rows]


def uncommit(settings: Settings, load_id: str) -> None:
    """Make a load one whose rows are there and whose commit is yet to come."""
    execute(settings, "delete from raw._dlt_loads where load_id = %s", [load_id])


def commit(settings: Settings, load_id: str) -> None:
    """Commit a load, the way dlt does it: by its row."""
    statement = (
        "insert into raw._dlt_loads (load_id, schema_name, status, inserted_at) values (%s, 'exports', 0, now())"
    )
    execute(settings, statement, [load_id])
