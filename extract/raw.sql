-- The raw tables that dlt appends to. dlt would create them as well, but without indexes and with md5 ids as
-- `bytea` (it has no uuid type; ADBC's binary COPY fills a `uuid` column from 16 bytes as it is).
create table if not exists raw.listens (
    listen_id uuid not null,
    artist_id uuid not null,
    track_id uuid not null,
    user_name text not null,
    listened_at timestamptz not null,
    artist_name text not null,
    track_name text not null,
    album text,
    artist_key text not null,
    track_key text not null,
    duration_ms bigint,
    played_ms bigint,
    recording_msid uuid,
    recording_mbid uuid,
    release_mbid uuid,
    artist_mbids text,
    submission_client text,
    additional_info text,
    mbid_mapping text,
    inserted_at timestamptz,
    source text not null,
    origin text,
    payload_hash uuid not null,
    _dlt_load_id text not null
)
-- What an import adds is read whole by the next build, which a vacuum of it would only slow down: 1 to 2 s a million.
with (autovacuum_vacuum_insert_threshold = -1);

create table if not exists raw.quarantine (
    source text not null,
    origin text,
    position text,
    user_name text,
    reason text not null,
    payload text not null,
    payload_hash uuid not null,
    seen_at timestamptz not null,
    _dlt_load_id text not null
);

create table if not exists raw.listen_counts (
    user_name text not null,
    listen_count bigint not null,
    checked_at timestamptz not null,
    _dlt_load_id text not null
);

create table if not exists raw.imported_files (
    content_hash text not null,
    name text not null,
    format text not null,
    user_name text,
    records bigint not null,
    landed bigint not null,
    refused bigint not null,
    no_music bigint not null,
    imported_at timestamptz not null,
    _dlt_load_id text not null
);

-- Rows that ListenBrainz does not show any more: each binds the rows of that payload that were loaded before it.
create table if not exists raw.listen_tombstones (
    user_name text not null,
    listened_at timestamptz not null,
    recording_msid uuid,
    listen_id uuid,
    payload_hash uuid not null,
    reason text not null,
    seen_at timestamptz not null,
    _dlt_load_id text not null
);

-- Metadata of recordings from ListenBrainz, a cache: of each MBID the newest row counts.
create table if not exists raw.recordings (
    recording_mbid uuid not null,
    is_known boolean not null,
    recording_name text,
    length_ms bigint,
    artist_name text,
    artist_mbids text,
    release_name text,
    release_mbid uuid,
    release_year bigint,
    genres text,
    fetched_at timestamptz not null,
    _dlt_load_id text not null
);

-- Which recording a track is that some listens have no MBID of; of each track the newest row counts.
create table if not exists raw.track_recordings (
    track_id uuid not null,
    recording_mbid uuid not null,
    mapped_at timestamptz not null,
    _dlt_load_id text not null
);

-- dlt's own list of loads, here so that dbt can build before anything was loaded. A load counts once its row
-- stands here with status 0.
create table if not exists raw._dlt_loads (
    load_id varchar not null,
    schema_name varchar,
    status bigint not null,
    inserted_at timestamptz not null,
    schema_version_hash varchar
);

-- What tables of an older version lack.
alter table raw.listens add column if not exists played_ms bigint;

-- Rows of one load lie together and times of one load are close: both indexes stay small and cheap.
create index if not exists listens_load_id on raw.listens (_dlt_load_id);
create index if not exists listens_listened_at on raw.listens using brin (listened_at) with (autosummarize = on);
create index if not exists quarantine_load_id on raw.quarantine (_dlt_load_id);
create index if not exists listen_counts_load_id on raw.listen_counts (_dlt_load_id);
create index if not exists imported_files_content_hash on raw.imported_files (content_hash);
create index if not exists imported_files_load_id on raw.imported_files (_dlt_load_id);
create index if not exists listen_tombstones_payload_hash on raw.listen_tombstones (payload_hash);
create index if not exists listen_tombstones_load_id on raw.listen_tombstones (_dlt_load_id);
create index if not exists recordings_recording_mbid on raw.recordings (recording_mbid);
create index if not exists recordings_load_id on raw.recordings (_dlt_load_id);
create index if not exists track_recordings_track_id on raw.track_recordings (track_id);
create index if not exists track_recordings_load_id on raw.track_recordings (_dlt_load_id);
