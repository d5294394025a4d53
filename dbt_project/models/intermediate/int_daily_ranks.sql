-- Names are sorted once, not once a day: days are grouped and ranked by the
-- position of a name among all names.
with

track_order as (

    select
        track_id,
        cast(
            row_number() over (
                order by
                    {{ code_points('artist_key') }},
                    {{ code_points('track_key') }}
            ) as integer
        ) as position
    from {{ ref('tracks') }}
    {%- if not rebuilds_all() %}
    where track_id in (
        select user_tracks.track_id
        from {{ ref('user_daily_tracks') }} as user_tracks
        where {{ in_touched_days() }}
    )
    {%- endif %}

),

artist_order as (

    select
        artist_id,
        cast(
            row_number() over (order by {{ code_points('artist_key') }})
            as integer
        ) as position
    from {{ ref('artists') }}
    {%- if not rebuilds_all() %}
    where artist_id in (
        select user_tracks.artist_id
        from {{ ref('user_daily_tracks') }} as user_tracks
        where {{ in_touched_days() }}
    )
    {%- endif %}

),

by_track as (

    select
        user_tracks.day,
        track_order.position,
        cast(sum(user_tracks.listens) as bigint) as listens,
        cast(sum(user_tracks.milliseconds_listened) as bigint)
            as milliseconds_listened

    from {{ ref('user_daily_tracks') }} as user_tracks
    inner join track_order on user_tracks.track_id = track_order.track_id
    {%- if not rebuilds_all() %}
    where {{ in_touched_days() }}
    {%- endif %}
    group by user_tracks.day, track_order.position

),

by_artist as (

    select
        user_tracks.day,
        artist_order.position,
        cast(sum(user_tracks.listens) as bigint) as listens,
        cast(sum(user_tracks.milliseconds_listened) as bigint)
            as milliseconds_listened

    from {{ ref('user_daily_tracks') }} as user_tracks
    inner join artist_order on user_tracks.artist_id = artist_order.artist_id
    {%- if not rebuilds_all() %}
    where {{ in_touched_days() }}
    {%- endif %}
    group by user_tracks.day, artist_order.position

),

ranked_tracks as (

    select
        by_track.*,
        row_number() over (
            partition by by_track.day
            order by by_track.listens desc, by_track.position asc
        ) as rank
    from by_track

),

ranked_artists as (

    select
        by_artist.*,
        row_number() over (
            partition by by_artist.day
            order by by_artist.listens desc, by_artist.position asc
        ) as rank
    from by_artist

),

top_tracks as (

    select
        ranked_tracks.*,
        'track' as kind,
        track_order.track_id as id
    from ranked_tracks
    inner join track_order on ranked_tracks.position = track_order.position
    where ranked_tracks.rank <= 50

),

top_artists as (

    select
        ranked_artists.*,
        'artist' as kind,
        artist_order.artist_id as id
    from ranked_artists
    inner join artist_order on ranked_artists.position = artist_order.position
    where ranked_artists.rank <= 50

),

top_of_days as (

    select * from top_tracks
    union all
    select * from top_artists

)

select
    day,
    kind,
    rank,
    id,
    listens,
    {{ minutes('milliseconds_listened') }} as minutes_listened
from top_of_days
