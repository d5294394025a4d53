with

by_user as (

    select
        day,
        user_id,
        {{ whole_sum('listens') }} as listens,
        {{ whole_sum('milliseconds_listened') }} as milliseconds_listened,
        count(*) as distinct_tracks,
        count(distinct artist_id) as distinct_artists,
        {{ whole_sum('listens_without_duration') }} as listens_without_duration

    from {{ ref('user_daily_tracks') }}
    {%- if not rebuilds_all() %}
    where {{ in_touched_days() }}
    {%- endif %}
    group by day, user_id

),

-- What several users have in common counts once; most days of most homes have one.
shared_days as (

    select
        day,
        count(distinct track_id) as distinct_tracks,
        count(distinct artist_id) as distinct_artists

    from {{ ref('user_daily_tracks') }}
    where
        day in (
            select by_user.day
            from by_user
            group by by_user.day
            having count(*) > 1
        )
        {%- if not rebuilds_all() %}
        and {{ in_touched_days() }}
        {%- endif %}
    group by day

),

by_day as (

    select
        by_user.day,
        {{ whole_sum('by_user.listens') }} as listens,
        {{ whole_sum('by_user.milliseconds_listened') }} as milliseconds_listened,
        count(*) as listeners,
        max(coalesce(shared_days.distinct_tracks, by_user.distinct_tracks))
            as distinct_tracks,
        max(coalesce(shared_days.distinct_artists, by_user.distinct_artists))
            as distinct_artists,
        {{ whole_sum('by_user.listens_without_duration') }}
            as listens_without_duration

    from by_user
    left join shared_days on by_user.day = shared_days.day
    group by by_user.day

),

united as (

    select
        by_day.*,
        'all' as dimension
    from by_day
    union all
    select
        day,
        listens,
        milliseconds_listened,
        1 as listeners,
        distinct_tracks,
        distinct_artists,
        listens_without_duration,
        'user:' || user_id as dimension
    from by_user

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
