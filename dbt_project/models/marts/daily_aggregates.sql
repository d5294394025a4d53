with

user_tracks as (

    select *
    from {{ ref('user_daily_tracks') }}
    {%- if not rebuilds_all() %}
    where day in (select changed.day from ({{ changed_listens() }}) as changed)
    {%- endif %}

),

by_track as (

    select
        day,
        'track:' || cast(track_id as text) as dimension,
        sum(listens) as listens,
        sum(milliseconds_listened) as milliseconds,
        count(*) as listeners,
        cast(null as bigint) as distinct_tracks,
        cast(null as bigint) as distinct_artists,
        nullif(sum(listens_without_duration), 0) as listens_without_duration

    from user_tracks
    group by day, track_id

),

by_artist_user as (

    select
        day,
        artist_id,
        user_id,
        sum(listens) as listens,
        sum(milliseconds_listened) as milliseconds,
        sum(listens_without_duration) as listens_without_duration

    from user_tracks
    group by day, artist_id, user_id

),

artist_tracks as (

    select
        day,
        artist_id,
        count(distinct track_id) as distinct_tracks

    from user_tracks
    group by day, artist_id

),

by_artist as (

    select
        by_artist_user.day,
        'artist:' || cast(by_artist_user.artist_id as text) as dimension,
        sum(by_artist_user.listens) as listens,
        sum(by_artist_user.milliseconds) as milliseconds,
        count(*) as listeners,
        max(artist_tracks.distinct_tracks) as distinct_tracks,
        cast(null as bigint) as distinct_artists,
        nullif(sum(by_artist_user.listens_without_duration), 0)
            as listens_without_duration

    from by_artist_user
    inner join artist_tracks
        on
            by_artist_user.day = artist_tracks.day
            and by_artist_user.artist_id = artist_tracks.artist_id
    group by by_artist_user.day, by_artist_user.artist_id

),

by_user as (

    select
        day,
        'user:' || user_id as dimension,
        sum(listens) as listens,
        sum(milliseconds_listened) as milliseconds,
        1 as listeners,
        count(*) as distinct_tracks,
        count(distinct artist_id) as distinct_artists,
        sum(listens_without_duration) as listens_without_duration

    from user_tracks
    group by day, user_id

),

by_day as (

    select
        day,
        'all' as dimension,
        sum(listens) as listens,
        sum(milliseconds_listened) as milliseconds,
        count(distinct user_id) as listeners,
        count(distinct track_id) as distinct_tracks,
        count(distinct artist_id) as distinct_artists,
        sum(listens_without_duration) as listens_without_duration

    from user_tracks
    group by day

),

aggregates as (

    select * from by_day
    union all
    select * from by_user
    union all
    select * from by_artist
    union all
    select * from by_track

),

-- One row a metric; a metric that makes no sense for a dimension is null and
-- has no row.
unpivoted as (

    select
        aggregates.day,
        metrics.metric,
        aggregates.dimension,
        metrics.value

    from aggregates
    cross join lateral (
        values
        ('listens', cast(aggregates.listens as double precision)),
        ('minutes_listened', {{ minutes('aggregates.milliseconds') }}),
        ('listeners', cast(aggregates.listeners as double precision)),
        (
            'distinct_tracks',
            cast(aggregates.distinct_tracks as double precision)
        ),
        (
            'distinct_artists',
            cast(aggregates.distinct_artists as double precision)
        ),
        (
            'listens_without_duration',
            cast(aggregates.listens_without_duration as double precision)
        )
    ) as metrics (metric, value)
    where metrics.value is not null

)

select * from unpivoted
