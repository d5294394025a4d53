with

daily_metrics as (

    select * from {{ ref('int_daily_metrics') }}

),

by_artist as (

    select
        day,
        'artist:' || cast(artist_id as text) as dimension,
        {{ whole_sum('listens') }} as listens,
        {{ whole_sum('milliseconds_listened') }} as milliseconds_listened,
        count(distinct user_id) as listeners,
        count(distinct track_id) as distinct_tracks,
        nullif(
            {{ whole_sum('listens_without_duration') }}, 0
        ) as listens_without_duration

    -- Not by a CTE: one that is read twice is spooled, whole, whatever day is asked for.
    from {{ ref('user_daily_tracks') }}
    group by day, artist_id

),

by_track as (

    select
        day,
        'track:' || cast(track_id as text) as dimension,
        {{ whole_sum('listens') }} as listens,
        {{ whole_sum('milliseconds_listened') }} as milliseconds_listened,
        count(*) as listeners,
        nullif(
            {{ whole_sum('listens_without_duration') }}, 0
        ) as listens_without_duration

    from {{ ref('user_daily_tracks') }}
    group by day, track_id

),

aggregates as (

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

-- Unnested among the columns, side by side: as a table of its own in the from
-- clause, each row's values would be spooled first.
metrics as (

    select
        day,
        unnest(
            array[
                'listens',
                'minutes_listened',
                'listeners',
                'distinct_tracks',
                'distinct_artists',
                'listens_without_duration'
            ]
        ) as metric,
        dimension,
        unnest(
            array[
                cast(listens as double precision),
                {{ minutes('milliseconds_listened') }},
                cast(listeners as double precision),
                cast(distinct_tracks as double precision),
                cast(distinct_artists as double precision),
                cast(listens_without_duration as double precision)
            ]
        ) as value

    from aggregates

),

-- One row a metric; a metric that makes no sense for a dimension is null and
-- has no row.
present as (

    select
        day,
        metric,
        dimension,
        value

    from metrics
    where value is not null

)

select * from present
