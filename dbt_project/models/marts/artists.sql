with

listens as (

    select *
    from {{ ref('int_listens_deduplicated') }}
    where
        near_duplicate_of is null
        {%- if not rebuilds_all() %}
        and artist_id in (
            select changed.artist_id from ({{ changed_listens() }}) as changed
        )
        {%- endif %}

),

variants as (

    select
        artist_id,
        track_id,
        user_id,
        artist_name,
        artist_mbids,
        count(*) as listens,
        min(listened_at) as first_played_at,
        max(listened_at) as last_played_at,
        min(artist_key) as artist_key

    from listens
    group by artist_id, track_id, user_id, artist_name, artist_mbids

),

names as (

    {{ most_frequent('variants', 'artist_id', 'artist_name') }}

),

mbids as (

    {{ most_frequent('variants', 'artist_id', 'artist_mbids') }}

),

totals as (

    select
        artist_id,
        min({{ code_points('artist_key') }}) as artist_key,
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
        names.artist_name,
        mbids.artist_mbids,
        cast(totals.listens as bigint) as listens,
        totals.listeners,
        totals.tracks,
        totals.first_played_at,
        totals.last_played_at,
        totals.artist_key

    from totals
    inner join names on totals.artist_id = names.artist_id
    left join mbids on totals.artist_id = mbids.artist_id

)

select * from artists
