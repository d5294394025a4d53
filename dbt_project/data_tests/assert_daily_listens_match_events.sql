-- The days of `daily_aggregates` hold the listens of `listen_events`, and no other days.
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

)

select
    coalesce(events.day, aggregates.day) as day,
    events.listens as in_events,
    aggregates.listens as in_aggregates
from events
full outer join aggregates on events.day = aggregates.day
where
    events.listens is null
    or aggregates.listens is null
    or events.listens != aggregates.listens
