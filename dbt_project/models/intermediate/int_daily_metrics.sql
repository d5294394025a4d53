with

by_user as (

    select
        day,
        'user:' || user_id as dimension,
        sum(listens) as listens,
        sum(milliseconds_listened) as milliseconds_listened,
        1 as listeners,
        count(*) as distinct_tracks,
        count(distinct artist_id) as distinct_artists,
        sum(listens_without_duration) as listens_without_duration

    from {{ ref('user_daily_tracks') }}
    {%- if not rebuilds_all() %}
    where {{ in_touched_days() }}
    {%- endif %}
    group by day, user_id

),

by_day as (

    select
        day,
        'all' as dimension,
        sum(listens) as listens,
        sum(milliseconds_listened) as milliseconds_listened,
        count(distinct user_id) as listeners,
        count(distinct track_id) as distinct_tracks,
        count(distinct artist_id) as distinct_artists,
        sum(listens_without_duration) as listens_without_duration

    from {{ ref('user_daily_tracks') }}
    {%- if not rebuilds_all() %}
    where {{ in_touched_days() }}
    {%- endif %}
    group by day

),

united as (

    select * from by_day
    union all
    select * from by_user

)

select
    day,
    dimension,
    cast(listens as bigint) as listens,
    cast(milliseconds_listened as bigint) as milliseconds_listened,
    cast(listeners as bigint) as listeners,
    distinct_tracks,
    distinct_artists,
    cast(listens_without_duration as bigint) as listens_without_duration
from united
