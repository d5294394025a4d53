with

listens as (

    select
        events.day,
        events.user_id,
        {{ local_hour(
            'events.played_at_ts',
            "coalesce(zones.time_zone, '" ~ var('time_zone') ~ "')"
        ) }} as hour,
        events.duration_ms
    from {{ ref('listen_events') }} as events
    left join {{ ref('int_user_time_zones') }} as zones
        on events.user_id = zones.user_id
    {%- if not rebuilds_all() %}
    where {{ in_touched_days() }}
    {%- endif %}

),

counted as (

    select
        user_id,
        day,
        hour,
        count(*) as listens,
        {{ minutes('coalesce(' ~ whole_sum('duration_ms') ~ ', 0)') }} as minutes_listened,
        coalesce({{ whole_sum('duration_ms') }}, 0) as milliseconds_listened
    from listens
    group by user_id, day, hour

)

select * from counted
