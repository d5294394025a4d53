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

named as (

    select
        ranks.day,
        ranks.kind,
        ranks.rank,
        ranks.id,
        coalesce(tracks.track_name, artists.artist_name) as name,
        ranks.listens,
        ranks.minutes_listened,
        track_artists.artist_name

    from ranks
    left join tracks
        on ranks.kind = 'track' and ranks.id = tracks.track_id
    left join artists
        on ranks.kind = 'artist' and ranks.id = artists.artist_id
    left join artists as track_artists
        on tracks.artist_id = track_artists.artist_id

)

select * from named
