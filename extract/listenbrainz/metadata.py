"""ListenBrainz' metadata of recordings -> raw.recordings and raw.track_recordings: what listens themselves don't say.

MBIDs of listens, most listened first -> /1/metadata/recording/ -> length, names, release, artists, genres

A cache: a recording is asked for once, and again after `enrich_refresh_days`; one that ListenBrainz doesn't know
likewise. raw.track_recordings says which recording a track is that some listens have no MBID of: the one that most of
its other listens name.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import dlt
import psycopg
import pyarrow as pa

from extract.listenbrainz.common import client_for
from extract.pipeline import RAW_CONTRACT, landing
from extract.rows import timestamps
from music_pulse.listens import MAX_DURATION_MS, to_json, uuid_bytes
from music_pulse.settings import Settings

logger = logging.getLogger(__name__)

PIPELINE = "metadata"
BATCH_RECORDINGS = 100
"""Recordings of one request: 37 characters each in its address."""
PACKAGE_RECORDINGS = 1_000
"""Recordings of one load package: what a kill makes us ask again."""

_UUID = pa.binary(16)

RECORDINGS_SCHEMA = pa.schema(
    [
        pa.field("recording_mbid", _UUID, nullable=False),
        pa.field("is_known", pa.bool_(), nullable=False),
        pa.field("recording_name", pa.string()),
        pa.field("length_ms", pa.int64()),
        pa.field("artist_name", pa.string()),
        pa.field("artist_mbids", pa.string()),
        pa.field("release_name", pa.string()),
        pa.field("release_mbid", _UUID),
        pa.field("release_year", pa.int64()),
        pa.field("genres", pa.string()),
        pa.field("fetched_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""`raw.recordings` as it is landed; see `extract/raw.sql`."""

TRACK_RECORDINGS_SCHEMA = pa.schema(
    [
        pa.field("track_id", _UUID, nullable=False),
        pa.field("recording_mbid", _UUID, nullable=False),
        pa.field("mapped_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""`raw.track_recordings` as it is landed."""

_COUNT = """
create temporary table listened as
select track_id, recording_mbid, count(*) as listens
from (
    select track_id, recording_mbid from raw.listens
    union all
    select track_id, recording_mbid from raw.stream_listens
) as landed
group by track_id, recording_mbid
"""
"""All listens are read once, for the two queries below."""
_DUE = """
select recording_mbid
from listened
where recording_mbid is not null
    and not exists (
        select 1 from raw.recordings
        where recordings.recording_mbid = listened.recording_mbid
            and recordings.fetched_at > now() - %(days)s * interval '1 day'
    )
group by recording_mbid
order by sum(listens) desc, recording_mbid
limit %(limit)s
"""
_MAPPED = """
with named as (
    select distinct on (track_id) track_id, recording_mbid
    from listened
    where recording_mbid is not null
        and track_id in (select unnamed.track_id from listened as unnamed where unnamed.recording_mbid is null)
    order by track_id, listens desc, recording_mbid
),

mapped as (
    select distinct on (track_id) track_id, recording_mbid
    from raw.track_recordings
    order by track_id, _dlt_load_id collate "C" desc
)

select track_id, recording_mbid from named
except
select track_id, recording_mbid from mapped
"""

Progress = Callable[[int, int], None]
"""Called with (recordings asked for, recordings to ask for)."""


@dataclass
class Enriched:
    """What an enrichment did, in recordings and tracks."""

    asked: int = 0
    known: int = 0
    tracks: int = 0
    """Tracks whose listens without an MBID got one."""

    @property
    def is_changed(self) -> bool:
        """Whether something was landed."""
        return bool(self.asked or self.tracks)


@dlt.source(name=PIPELINE)
def metadata(recordings: pa.Table | None, tracks: pa.Table | None) -> Any:
    """Tables that are whole already, as one package."""

    @dlt.resource(name="metadata", write_disposition="append", schema_contract=RAW_CONTRACT)
    def tables() -> Iterator[Any]:
        if recordings is not None:
            yield dlt.mark.with_table_name(recordings, "recordings")
        if tracks is not None:
            yield dlt.mark.with_table_name(tracks, "track_recordings")

    return tables


def enrich(settings: Settings, *, limit: int | None = None, progress: Progress = lambda *_: None) -> Enriched:
    """Ask for the metadata of at most `limit` recordings (default: `settings.enrich_recordings`) that are due.

    What was asked for stays, whatever happens then: the next call goes on. Asks nothing where nothing is due. Raises
    `ExternalAPIError`.
    """
    done = Enriched()
    with client_for(settings) as client, landing(settings, PIPELINE) as target:
        target.connection.execute("set max_parallel_workers_per_gather = 2")  # the run waits for it alone
        target.connection.execute(_COUNT)
        mapped = target.connection.execute(_MAPPED).fetchall()
        if mapped:
            target.run(metadata(None, _track_recordings_table(mapped)))
            done.tracks = len(mapped)
        due = _due(target.connection, settings, settings.enrich_recordings if limit is None else limit)
        for start in range(0, len(due), PACKAGE_RECORDINGS):
            package = due[start : start + PACKAGE_RECORDINGS]
            rows: list[list[Any]] = []
            for first in range(0, len(package), BATCH_RECORDINGS):
                batch = package[first : first + BATCH_RECORDINGS]
                found = client.recordings(batch)
                now = int(time.time())
                rows += [_row(mbid, found.get(str(mbid)), now) for mbid in batch]
                done.known += sum(str(mbid) in found for mbid in batch)
            target.run(metadata(_recordings_table(rows), None))
            done.asked += len(package)
            progress(done.asked, len(due))
    logger.info("asked for %d recordings, %d are known; mapped %d tracks", done.asked, done.known, done.tracks)
    return done


def _due(connection: psycopg.Connection, settings: Settings, limit: int) -> list[UUID]:
    parameters = {"days": settings.enrich_refresh_days, "limit": limit}
    return [mbid for (mbid,) in connection.execute(_DUE, parameters)]


def _row(mbid: UUID, found: Any, fetched_at: int) -> list[Any]:
    """Make a row of raw.recordings; a part that isn't what it should be is taken as unknown."""
    parts = found if isinstance(found, dict) else {}
    recording, artist, release, tags = (_dict(parts.get(name)) for name in ("recording", "artist", "release", "tag"))
    length, year = recording.get("length"), release.get("year")
    artists = [_text(one.get("artist_mbid")) for one in _dicts(artist.get("artists"))]
    genres = _genres(tags)
    return [
        mbid.bytes,
        isinstance(found, dict),
        _text(recording.get("name")),
        length if type(length) is int and 0 < length <= MAX_DURATION_MS else None,
        _text(artist.get("name")),
        to_json(artists) if artists and all(artists) else None,
        _text(release.get("name")),
        uuid_bytes(release.get("mbid")),
        year if type(year) is int and 0 < year < 10_000 else None,
        to_json(genres) if genres else None,
        fetched_at,
    ]


def _genres(tags: dict[str, Any]) -> list[str]:
    """Name the genres, most voted first: the recording's own, else its release group's, else its artists'."""
    for level in ("recording", "release_group", "artist"):
        votes: dict[str, int] = {}
        for tag in _dicts(tags.get(level)):
            name, count = _text(tag.get("tag")), tag.get("count")
            if name and tag.get("genre_mbid") and type(count) is int and count > 0:
                votes[name] = votes.get(name, 0) + count
        if votes:
            return sorted(votes, key=lambda name: (-votes[name], name))
    return []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> Iterable[dict[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


def _text(value: Any) -> str | None:
    """Return a name that Postgres can store."""
    if not isinstance(value, str):
        return None
    return value.replace("\0", "").encode(errors="ignore").decode().strip() or None


def _recordings_table(rows: Sequence[Sequence[Any]]) -> pa.Table:
    *columns, seconds = zip(*rows, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, RECORDINGS_SCHEMA, strict=False)]
    return pa.table([*arrays, timestamps(seconds)], schema=RECORDINGS_SCHEMA)


def _track_recordings_table(rows: Sequence[tuple[UUID, UUID]]) -> pa.Table:
    tracks, recordings = ([value.bytes for value in column] for column in zip(*rows, strict=True))
    return pa.table([tracks, recordings, timestamps([int(time.time())] * len(rows))], schema=TRACK_RECORDINGS_SCHEMA)


__all__ = ["Enriched", "enrich"]
