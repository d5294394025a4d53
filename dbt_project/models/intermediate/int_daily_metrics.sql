with

by_user as (

    select
        day,
        'user:' || user_id as dimension,
        {{ whole_sum('listens') }} as listens,
        {{ whole_sum('milliseconds_listened') }} as milliseconds_listened,
        cast(1 as bigint) as listeners,
        count(*) as distinct_tracks,
        count(distinct artist_id) as distinct_artists,
        {{ whole_sum('listens_without_duration') }} as listens_without_duration

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
        {{ whole_sum('listens') }} as listens,
        {{ whole_sum('milliseconds_listened') }} as milliseconds_listened,
        count(distinct user_id) as listeners,
        count(distinct track_id) as distinct_tracks,
        count(distinct artist_id) as distinct_artists,
        {{ whole_sum('listens_without_duration') }} as listens_without_duration

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
    listens,
    milliseconds_listened,
    listeners,
    distinct_tracks,
    distinct_artists,
    listens_without_duration
from united
