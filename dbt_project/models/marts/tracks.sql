with

variants as (

    select *
    from {{ ref('int_track_variants') }}
    {%- if not rebuilds_all() %}
    where
        track_id in (
            select changed.track_id from ({{ changed_listens() }}) as changed
        )
    {%- endif %}

),

names as (

    {{ most_frequent('variants', 'track_id', 'track_name') }}

),

albums as (

    {{ most_frequent('variants', 'track_id', 'album') }}

),

mbids as (

    {{ most_frequent('variants', 'track_id', 'recording_mbid', 'recording_mbid') }}

),

-- United, not joined: without statistics on CTEs, joins of them go astray.
attributes as (

    select
        track_id,
        track_name,
        cast(null as text) as album,
        cast(null as text) as recording_mbid
    from names
    union all
    select track_id, null, album, null from albums
    union all
    select track_id, null, null, cast(recording_mbid as text) from mbids

),

named as (

    select
        track_id,
        max(track_name) as track_name,
        max(album) as album,
        max(recording_mbid) as recording_mbid

    from attributes
    group by track_id

),

totals as (

    select
        track_id,
        any_value(artist_id) as artist_id,
        any_value(track_key) as track_key,
        any_value(artist_key) as artist_key,
        sum(listens) as listens,
        count(distinct user_id) as listeners,
        max(duration_ms) as duration_ms,
        min(first_played_at) as first_played_at,
        max(last_played_at) as last_played_at

    from variants
    group by track_id

),

tracks as (

    select
        totals.track_id,
        named.track_name,
        totals.artist_id,
        named.album,
        cast(named.recording_mbid as uuid) as recording_mbid,
        totals.duration_ms,
        cast(totals.listens as bigint) as listens,
        totals.listeners,
        totals.first_played_at,
        totals.last_played_at,
        totals.track_key,
        totals.artist_key,
        coalesce(track_redirects.canonical_id, totals.track_id)
            as canonical_track_id,
        coalesce(
            track_redirects.artist_id,
            artist_redirects.canonical_id,
            totals.artist_id
        ) as canonical_artist_id

    from totals
    inner join named on totals.track_id = named.track_id
    {{ join_redirects('track', 'track_redirects', 'totals.track_id') }}
    {{ join_redirects('artist', 'artist_redirects', 'totals.artist_id') }}

)

select * from tracks
