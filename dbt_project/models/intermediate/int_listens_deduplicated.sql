{%- set columns = [
    'listen_id', 'user_id', 'artist_id', 'track_id', 'recording_msid',
    'recording_mbid', 'release_mbid', 'payload_hash', 'artist_name',
    'track_name', 'album', 'artist_key', 'track_key', 'artist_mbids',
    'submission_client', 'source', 'origin', 'duration_ms', 'played_ms',
    'listened_at', 'inserted_at',
] %}
with

pending_loads as (

    {{ pending_loads() }}

),

arrived as {{ not_materialized() }} (

    -- Laterals with a limit of their own are looked up by index, one by one:
    -- the planner can't know that few loads and few listens are new.
    {%- for landed in [ref('stg_batch__listens'), ref('stg_stream__listens')] %}
    select listens.*
    from pending_loads
    cross join lateral (
        select
            load_id,
            {{ columns | join(', ') }}
        from {{ landed }} as landed
        where landed.load_id = pending_loads.load_id
        {%- if is_incremental() %}
        offset 0
        {%- endif %}
    ) as listens
    {{- '\n    union all' if not loop.last }}
    {%- endfor %}

),

candidates as {{ not_materialized() }} (

    select {{ columns | join(', ') }}
    from arrived
    {%- if is_incremental() %}
    union all
    select existing.{{ columns | join(', existing.') }}
    from (select distinct arrived.listen_id from arrived) as ids
    cross join lateral (
        select *
        from {{ this }} as held
        where held.listen_id = ids.listen_id
        limit 1
    ) as existing
    union all
    select {{ columns | join(', ') }}
    from {{ this }}
    where
        user_id in (
            select used.user_id
            from {{ ref('int_user_time_zones') }} as used
            where used.time_zone != {{ time_zone_of('used.user_id') }}
        )
    union all
    select held.{{ columns | join(', held.') }}
    from {{ this }} as held
    where
        {{ skip_rule_changed() }}
        and held.is_skip != {{ is_skip('held') }}
    {%- endif %}

),

-- Most listens have one row: only the others need ranking.
repeated as (

    select candidates.listen_id
    from candidates
    group by candidates.listen_id
    having count(*) > 1

),

-- The best row of a listen, by what it says and never by when it came.
ranked as (

    select
        candidates.*,
        row_number() over (
            partition by candidates.listen_id
            order by
                coalesce(candidates.played_ms, candidates.duration_ms) desc nulls last,
                case when candidates.album is null then 1 else 0 end,
                candidates.recording_msid asc nulls last,
                candidates.payload_hash,
                {{ code_points('candidates.source') }},
                {{ code_points('candidates.origin') }} asc nulls first
        ) as preference
    from candidates
    where candidates.listen_id in (select repeated.listen_id from repeated)

),

preferred as (

    select {{ columns | join(', ') }}
    from candidates
    where
        not exists (
            select 1
            from repeated
            where repeated.listen_id = candidates.listen_id
        )
    union all
    select {{ columns | join(', ') }}
    from ranked
    where preference = 1

),

zones as (

    {{ time_zones() }}

),

winners as (

    select
        {%- for column in columns %}
        preferred.{{ column }},
        {%- endfor %}
        {{ is_skip('preferred') }} as is_skip,
        cast(null as uuid) as near_duplicate_of,
        {{ local_day(
            'preferred.listened_at',
            "coalesce(zones.time_zone, '" ~ var('time_zone') ~ "')"
        ) }} as day,
        {{ change_id() }} as changed_at
    from preferred
    left join zones on lower(preferred.user_id) = zones.user_key

)

select winners.*
from winners
{%- if is_incremental() %}
left join lateral (
    select *
    from {{ this }} as held
    where held.listen_id = winners.listen_id
    limit 1
) as built on true
where
    built.listen_id is null
    or built.payload_hash != winners.payload_hash
    or built.source != winners.source
    or built.origin is distinct from winners.origin
    or built.user_id != winners.user_id
    or built.day != winners.day
    or built.is_skip != winners.is_skip
{%- endif %}
