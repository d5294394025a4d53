with

listens as (

    select *
    from {{ ref('listen_events') }}
    {%- if not rebuilds_all() %}
    -- Not by user: a better row of a listen may spell its user otherwise.
    where
        {{ in_touched_days() }}
        and (day, track_id) in (
            select
                changed.day,
                changed.track_id
            from ({{ changed_listens() }}) as changed
        )
    {%- endif %}

),

counted as (

    select
        day,
        user_id,
        track_id,
        artist_id,
        count(*) as listens,
        {{ minutes('coalesce(' ~ whole_sum('duration_ms') ~ ', 0)') }} as minutes_listened,
        coalesce({{ whole_sum('duration_ms') }}, 0) as milliseconds_listened,
        count(*) - count(duration_ms) as listens_without_duration

    from listens
    group by day, user_id, track_id, artist_id
    -- What comes after it reads the days in order.
    order by day asc

)

select * from counted
