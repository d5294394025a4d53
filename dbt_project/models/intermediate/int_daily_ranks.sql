with

user_tracks as (

    select *
    from {{ ref('user_daily_tracks') }}
    {%- if not rebuilds_all() %}
    where {{ in_touched_days() }}
    {%- endif %}

),

by_track as (

    select
        day,
        track_id,
        sum(listens) as listens,
        sum(milliseconds_listened) as milliseconds_listened

    from user_tracks
    group by day, track_id

),

by_artist as (

    select
        day,
        artist_id,
        sum(listens) as listens,
        sum(milliseconds_listened) as milliseconds_listened

    from user_tracks
    group by day, artist_id

),

-- Names sorted once, not once a day: days are ranked by numbers.
track_order as (

    select
        track_id,
        row_number() over (
            order by
                {{ code_points('artist_key') }},
                {{ code_points('track_key') }}
        ) as position
    from {{ ref('tracks') }}
    where track_id in (select by_track.track_id from by_track)

),

artist_order as (

    select
        artist_id,
        row_number() over (order by {{ code_points('artist_key') }}) as position
    from {{ ref('artists') }}
    where artist_id in (select by_artist.artist_id from by_artist)

),

tracks as (

    select
        by_track.day,
        'track' as kind,
        by_track.track_id as id,
        by_track.listens,
        by_track.milliseconds_listened,
        row_number() over (
            partition by by_track.day
            order by by_track.listens desc, track_order.position asc
        ) as rank

    from by_track
    inner join track_order on by_track.track_id = track_order.track_id

),

artists as (

    select
        by_artist.day,
        'artist' as kind,
        by_artist.artist_id as id,
        by_artist.listens,
        by_artist.milliseconds_listened,
        row_number() over (
            partition by by_artist.day
            order by by_artist.listens desc, artist_order.position asc
        ) as rank

    from by_artist
    inner join artist_order on by_artist.artist_id = artist_order.artist_id

),

ranked as (

    select * from tracks
    where rank <= 50
    union all
    select * from artists
    where rank <= 50

)

select
    day,
    kind,
    rank,
    id,
    cast(listens as bigint) as listens,
    {{ minutes('milliseconds_listened') }} as minutes_listened
from ranked
