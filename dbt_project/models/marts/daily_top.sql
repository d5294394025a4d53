with

ranks as (

    select * from {{ ref('int_daily_ranks') }}

),

tracks as (

    select * from {{ ref('tracks') }}

),

artists as (

    select * from {{ ref('artists') }}

),

-- Of several spellings the most listened names the entity.
entities as (

    select distinct
        kind,
        canonical_id,
        canonical_name
    from {{ ref('entity_redirects') }}

),

named as (

    select
        ranks.day,
        ranks.kind,
        ranks.rank,
        ranks.id,
        coalesce(
            entities.canonical_name, tracks.track_name, artists.artist_name
        ) as name,
        ranks.listens,
        ranks.minutes_listened,
        coalesce(
            track_entities.canonical_name, track_artists.artist_name
        ) as artist_name

    from ranks
    left join tracks
        on ranks.kind = 'track' and ranks.id = tracks.track_id
    left join artists
        on ranks.kind = 'artist' and ranks.id = artists.artist_id
    left join artists as track_artists
        on tracks.canonical_artist_id = track_artists.artist_id
    left join entities
        on ranks.kind = entities.kind and ranks.id = entities.canonical_id
    left join entities as track_entities
        on
            track_entities.kind = 'artist'
            and tracks.canonical_artist_id = track_entities.canonical_id

)

select * from named
