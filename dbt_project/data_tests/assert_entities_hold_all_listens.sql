-- Summed by entity, no day gains or loses a listen, and no spelling stands beside
-- the entity that it belongs to.
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

entities as (

    select
        day,
        sum(listens) as listens
    from {{ ref('user_daily_tracks') }}
    where {{ untested_days('day') }}
    group by day

),

spellings as (

    select day
    from {{ ref('user_daily_tracks') }}
    where
        track_id in (
            select redirects.id
            from {{ ref('entity_redirects') }} as redirects
            where redirects.kind = 'track'
        )
        or artist_id in (
            select redirects.id
            from {{ ref('entity_redirects') }} as redirects
            where redirects.kind = 'artist'
        )

)

select coalesce(events.day, entities.day) as day
from events
full outer join entities on events.day = entities.day
where events.listens is distinct from entities.listens
union
select spellings.day
from spellings
