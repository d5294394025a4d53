-- The raw tables that the stream writes. They stand, empty, from the first start, so that dbt builds without it.

-- Every event once, by `listen_id`: the columns of raw.listens, and where it first stood in Kafka. A later event of
-- the same listen replaces what it says where it says more (longest duration, then an album, ...), under a new load id,
-- but never `kafka_*`: what the trending windows counted was the first one.
create table if not exists raw.stream_listens (
    listen_id uuid primary key,
    artist_id uuid not null,
    track_id uuid not null,
    user_name text not null,
    user_key text not null,
    listened_at timestamptz not null,
    artist_name text not null,
    track_name text not null,
    album text,
    artist_key text not null,
    track_key text not null,
    duration_ms bigint,
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
    kafka_topic text not null,
    kafka_partition integer not null,
    kafka_offset bigint not null,
    kafka_timestamp timestamptz not null,
    load_id text not null
);
create index if not exists stream_listens_load_id on raw.stream_listens (load_id);
create index if not exists stream_listens_listened_at on raw.stream_listens (listened_at);

-- One row a transaction of the sink, committed with its listens: what dbt takes as a load.
create table if not exists raw.stream_loads (
    load_id text primary key,
    events bigint not null,
    listens bigint not null,
    refused bigint not null,
    committed_at timestamptz not null
);

-- Where the sink goes on: committed with the listens before it. `cluster_id` is the id of the cluster and, after a
-- slash, that of the topic: one made anew gets another, and its offsets are new.
create table if not exists raw.stream_offsets (
    cluster_id text not null,
    topic text not null,
    partition integer not null,
    next_offset bigint not null,
    updated_at timestamptz not null,
    primary key (cluster_id, topic, partition)
);

-- Counts only, absolute; written by the trending job by upsert.
create table if not exists raw.trending_windows (
    window_start timestamptz not null,
    window_end timestamptz not null,
    entity_kind text not null check (entity_kind in ('track', 'artist')),
    entity_id uuid not null,
    artist_name text not null,
    track_name text,
    listen_count bigint not null,
    listener_count bigint not null,
    updated_at timestamptz not null,
    primary key (window_start, window_end, entity_kind, entity_id)
) with (fillfactor = 70); -- counts are updated in place while their window is open

-- The last batch of each streaming query whose rows stand in raw.trending_windows (or nothing, before its first).
create table if not exists raw.trending_ledger (
    query_id uuid primary key,
    batch_id bigint not null,
    watermark timestamptz,
    whole_from timestamptz,
    updated_at timestamptz not null
);
comment on column raw.trending_ledger.watermark is 'Windows that end by then are closed: no batch changes them.';
comment on column raw.trending_ledger.whole_from is
    'The query has seen windows from here on whole, and writes no others; null: it began with the topic.';

-- What a batch kept out of the windows, by reason ('late', 'very late', 'clock ahead', 'malformed').
create table if not exists raw.trending_left_out (
    query_id uuid not null,
    batch_id bigint not null,
    reason text not null,
    events bigint not null,
    primary key (query_id, batch_id, reason)
);
