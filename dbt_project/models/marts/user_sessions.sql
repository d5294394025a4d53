with

{%- if not rebuilds_sessions() %}

-- A session that is taken out is put together again of all its listens.
touched_days as (

    select
        touched.user_id,
        touched.started_at,
        touched.ended_at,
        touched.day + places.place as day
    from touched_sessions as touched
    cross join lateral generate_series(
        0,
        cast(
            ceil(extract(epoch from touched.ended_at - touched.started_at) / 86400)
            as integer
        )
    ) as places (place)

),

listens as (

    select
        events.listen_id,
        events.user_id,
        events.played_at_ts,
        events.day,
        events.duration_ms
    from {{ ref('listen_events') }} as events
    inner join touched_days
        on
            events.user_id = touched_days.user_id
            and events.day = touched_days.day
            and events.played_at_ts between
            touched_days.started_at and touched_days.ended_at
    where events.day = any(array(select days.day from touched_days as days))
    union
    select
        events.listen_id,
        events.user_id,
        events.played_at_ts,
        events.day,
        events.duration_ms
    from {{ ref('listen_events') }} as events
    where
        events.listen_id in (
            select changed.listen_id from ({{ changed_listens() }}) as changed
        )

),
{%- else %}

listens as (

    select
        user_id,
        played_at_ts,
        day,
        duration_ms
    from {{ ref('listen_events') }}

),
{%- endif %}

-- No pause fits into a slot as long as one: far fewer rows to sort than listens.
slots as (

    select
        user_id,
        min(played_at_ts) as started_at,
        max(played_at_ts) as ended_at,
        min(day) as day,
        count(*) as listens,
        {{ whole_sum('duration_ms') }} as milliseconds_listened
    from listens
    group by
        user_id,
        {{ slot_of('played_at_ts', var('session_gap_minutes')) }}

),

marked as (

    select
        slots.*,
        case
            when
                slots.started_at
                <= lag(slots.ended_at) over (
                    partition by slots.user_id order by slots.started_at
                ) + {{ minutes_interval('session_gap_minutes') }}
                then 0
            else 1
        end as is_first
    from slots

),

numbered as (

    select
        marked.*,
        sum(marked.is_first) over (
            partition by marked.user_id
            order by marked.started_at
            rows unbounded preceding
        ) as place
    from marked

),

sessions as (

    select
        user_id,
        min(started_at) as started_at,
        max(ended_at) as ended_at,
        min(day) as day,
        cast(sum(listens) as bigint) as listens,
        {{ minutes('coalesce(sum(milliseconds_listened), 0)') }} as minutes_listened
    from numbered
    group by user_id, place

)

select * from sessions
