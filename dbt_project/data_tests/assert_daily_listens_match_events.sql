-- The days of `daily_aggregates`, and of `user_daily_tracks` summed by entity, hold the
-- listens of `listen_events`, and no other days.
{{ config(tags=['untested']) }}
with

events as (

    select
        day,
        count(*) as listens
    from {{ ref('listen_events') }}
    where {{ untested_days('day') }}
    group by day

),

aggregates as (

    select
        day,
        value as listens
    from {{ ref('daily_aggregates') }}
    where
        metric = 'listens'
        and dimension = 'all'
        and {{ untested_days('day') }}

),

entities as (

    select
        day,
        {{ whole_sum('listens') }} as listens
    from {{ ref('user_daily_tracks') }}
    where {{ untested_days('day') }}
    group by day

)

select
    coalesce(events.day, aggregates.day, entities.day) as day,
    events.listens as in_events,
    aggregates.listens as in_aggregates,
    entities.listens as in_entities
from events
full outer join aggregates on events.day = aggregates.day
full outer join entities on events.day = entities.day
where
    events.listens is null
    or events.listens is distinct from aggregates.listens
    or events.listens is distinct from entities.listens
