"""raw.listens -> JSON lines in ListenBrainz form: what is landed, for a replay."""

from __future__ import annotations

from pathlib import Path

from extract.skips import IS_SKIP, least_played_ms
from extract.tombstones import is_bound
from music_pulse.database import connect
from music_pulse.settings import Settings

_BATCH = 10_000


def write_landed(settings: Settings, path: Path, user_name: str | None = None) -> int:
    """Write each landed listen (of one user, however spelt, or of all) once, in no order; return how many."""
    written = 0
    with (
        connect(settings.credentials("loader")) as connection,
        connection.cursor(name="landed") as cursor,
        path.open("w", encoding="utf-8") as file,
    ):
        cursor.itersize = _BATCH
        cursor.execute(
            f"""
            select distinct on (listen_id) json_strip_nulls(json_build_object(
                'listened_at', cast(extract(epoch from listened_at) as bigint),
                'user_name', user_name,
                'recording_msid', recording_msid,
                'track_metadata', json_build_object(
                    'artist_name', artist_name,
                    'track_name', track_name,
                    'release_name', album,
                    'additional_info', coalesce(
                        cast(additional_info as json),
                        json_build_object(
                            'duration_ms', coalesce(played_ms, duration_ms),
                            'recording_mbid', recording_mbid,
                            'release_mbid', release_mbid,
                            'artist_mbids', cast(artist_mbids as json),
                            'submission_client', submission_client
                        )
                    ),
                    'mbid_mapping', cast(mbid_mapping as json)
                )
            ))::text
            from raw.listens
            where
                _dlt_load_id in (select load_id from raw._dlt_loads where status = 0)
                -- Events don't say for how long something was played: a skip would come back as a listen.
                and ({IS_SKIP}) is not true
                -- What is gone at ListenBrainz must not come back by the stream.
                and not (listens.source = 'listenbrainz' and {is_bound("listens")})
                and (%(user)s::text is null or lower(trim(normalize(user_name))) = lower(trim(normalize(%(user)s))))
            order by listen_id, payload_hash
            """.encode(),
            {"user": user_name, "least_played_ms": least_played_ms(settings)},
        )
        for (line,) in cursor:
            file.write(line.replace("\n", " ") + "\n")
            written += 1
    return written
