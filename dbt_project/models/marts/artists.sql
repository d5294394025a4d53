with

variants as (

    select *
    from {{ ref('int_track_variants') }}
    {%- if not rebuilds_all() %}
    where
        artist_id in (
            select changed.artist_id from ({{ changed_listens() }}) as changed
        )
    {%- endif %}

),

names as (

    {{ most_frequent('variants', 'artist_id', 'artist_name') }}

),

mbids as (

    {{ most_frequent('variants', 'artist_id', 'artist_mbids') }}

),

-- United, not joined: see tracks.
attributes as (

    select
        artist_id,
        artist_name,
        cast(null as text) as artist_mbids
    from names
    union all
    select artist_id, null, artist_mbids from mbids

),

named as (

    select
        artist_id,
        max(artist_name) as artist_name,
        max(artist_mbids) as artist_mbids

    from attributes
    group by artist_id

),

totals as (

    select
        artist_id,
        any_value(artist_key) as artist_key,
        sum(listens) as listens,
        count(distinct user_id) as listeners,
        count(distinct track_id) as tracks,
        min(first_played_at) as first_played_at,
        max(last_played_at) as last_played_at

    from variants
    group by artist_id

),

artists as (

    select
        totals.artist_id,
        named.artist_name,
        named.artist_mbids,
        cast(totals.listens as bigint) as listens,
        totals.listeners,
        totals.tracks,
        totals.first_played_at,
        totals.last_played_at,
        totals.artist_key,
        coalesce(artist_redirects.canonical_id, totals.artist_id)
            as canonical_artist_id

    from totals
    inner join named on totals.artist_id = named.artist_id
    {{ join_redirects('artist', 'artist_redirects', 'totals.artist_id') }}

)

select * from artists
