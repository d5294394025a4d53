{% set sums %}
        {{ whole_sum('listens') }} as listens,
        {{ whole_sum('milliseconds_listened') }} as milliseconds_listened,
        nullif(
            {{ whole_sum('listens_without_duration') }}, 0
        ) as listens_without_duration
{% endset %}
with

daily_metrics as (

    select * from {{ ref('int_daily_metrics') }}

),

by_artist as (

    select
        day,
        'artist:' || cast(artist_id as text) as dimension,
        count(distinct user_id) as listeners,
        count(distinct track_id) as distinct_tracks,
        {{ sums }}

    -- Not by a CTE: one that is read twice is spooled, whole, whatever day is asked for.
    from {{ ref('user_daily_tracks') }}
    group by day, artist_id

),

by_track as (

    select
        day,
        'track:' || cast(track_id as text) as dimension,
        count(*) as listeners,
        {{ sums }}

    from {{ ref('user_daily_tracks') }}
    group by day, track_id

),

united as (

    select
        day,
        dimension,
        listens,
        milliseconds_listened,
        listeners,
        distinct_tracks,
        distinct_artists,
        listens_without_duration
    from daily_metrics
    union all
    select
        day,
        dimension,
        listens,
        milliseconds_listened,
        listeners,
        distinct_tracks,
        null,
        listens_without_duration
    from by_artist
    union all
    select
        day,
        dimension,
        listens,
        milliseconds_listened,
        listeners,
        null,
        null,
        listens_without_duration
    from by_track

),

measures as (

    select
        day,
        dimension,
        listens,
        {{ minutes('milliseconds_listened') }} as minutes_listened,
        listeners,
        distinct_tracks,
        distinct_artists,
        listens_without_duration
    from united

)

select * from measures
