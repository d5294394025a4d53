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

tombstones as {{ not_materialized() }} (

    {{ newest_tombstones() }}

),

{%- if is_incremental() %}

-- Listens that new tombstones name: is there a row left?
in_question as (

    select distinct
        named.listen_id,
        named.listened_at
    from pending_loads
    cross join lateral (
        select
            written.listen_id,
            written.listened_at
        from {{ ref('stg_batch__tombstones') }} as written
        where
            written.load_id = pending_loads.load_id
            and written.listen_id is not null
        offset 0
    ) as named

),
{%- endif %}

arrived as {{ not_materialized() }} (

    {%- for landed in [ref('stg_batch__listens'), ref('stg_stream__listens')] %}
    {%- if is_incremental() %}
    -- Laterals with a limit of their own are looked up by index, one by one:
    -- the planner can't know that few loads and few listens are new.
    select listens.*
    from pending_loads
    cross join lateral (
        select
            load_id,
            {{ columns | join(', ') }}
        from {{ landed }} as landed
        where landed.load_id = pending_loads.load_id
        offset 0
    ) as listens
    union all
    select
        landed.load_id,
        landed.{{ columns | join(', landed.') }}
    from {{ landed }} as landed
    where
        -- By range, since what is in a list has no index.
        landed.listened_at between
        (select min(in_question.listened_at) from in_question)
        and (select max(in_question.listened_at) from in_question)
        and landed.listen_id in (select in_question.listen_id from in_question)
        and landed.load_id in ({{ loads() }})
    {%- else %}
    select
        load_id,
        {{ columns | join(', ') }}
    from {{ landed }} as landed
    -- `is true` keeps it from becoming a join, which hands every row on once more.
    where
        (
            landed.load_id in (select pending_loads.load_id from pending_loads)
        ) is true
    {%- endif %}
    {{- '\n    union all' if not loop.last }}
    {%- endfor %}

),

judged as {{ not_materialized() }} (

    select
        arrived.{{ columns | join(', arrived.') }},
        coalesce(tombstones.load_id > arrived.load_id, false) as is_deleted
    from arrived
    left join tombstones
        on
            arrived.payload_hash = tombstones.payload_hash
            and arrived.user_id = tombstones.user_id
            and arrived.source = 'listenbrainz'

),

{%- if is_incremental() %}

-- Whose time zone was another when their days were told.
moved_users as materialized (

    select used.user_id
    from {{ ref('int_user_time_zones') }} as used
    where used.time_zone != {{ time_zone_of('used.user_id') }}

),

-- What ListenBrainz has told of since.
new_recordings as materialized (

    select
        recordings.recording_mbid,
        cast(null as uuid) as track_id
    from {{ ref('int_recordings') }} as recordings
    where recordings.load_id in (select pending_loads.load_id from pending_loads)
    union all
    select
        null,
        mapped.track_id
    from {{ ref('int_track_recordings') }} as mapped
    where mapped.load_id in (select pending_loads.load_id from pending_loads)

),

built as (

    select
        existing.{{ columns | join(', existing.') }},
        existing.is_deleted
    from (select distinct arrived.listen_id from arrived) as ids
    cross join lateral (
        select *
        from {{ this }} as held
        where held.listen_id = ids.listen_id
        limit 1
    ) as existing
    union all
    select
        {{ columns | join(', ') }},
        is_deleted
    from {{ this }}
    where
        -- Asked first, it spares the table's reading.
        exists (select 1 from moved_users)
        and user_id in (select moved_users.user_id from moved_users)
    union all
    select
        held.{{ columns | join(', held.') }},
        held.is_deleted
    from {{ this }} as held
    where
        {{ rule_changed(['min_play_seconds']) }}
        and held.is_skip != {{ is_skip('held') }}
    union all
    select
        held.{{ columns | join(', held.') }},
        held.is_deleted
    from {{ this }} as held
    where
        exists (select 1 from new_recordings)
        and (
            -- A listen is mapped only where it has no MBID of its own.
            coalesce(held.recording_mbid, held.mapped_recording_mbid) in (
                select new_recordings.recording_mbid from new_recordings
                where new_recordings.recording_mbid is not null
            )
            or held.track_id in (
                select new_recordings.track_id from new_recordings
                where new_recordings.track_id is not null
            )
        )

),
{%- endif %}

candidates as {{ not_materialized() }} (

    select
        {{ columns | join(', ') }},
        is_deleted
    from judged
    {%- if is_incremental() %}
    union all
    select
        built.{{ columns | join(', built.') }},
        built.is_deleted
    from built
    where built.listen_id not in (select in_question.listen_id from in_question)
    {%- endif %}

),

-- Most listens have one row: only the others need ranking.
repeated as (

    select candidates.listen_id
    from candidates
    group by candidates.listen_id
    having count(*) > 1

),

-- The best row of a listen, by what it says and never by when it came; one that is
-- deleted only where all are.
ranked as (

    select
        candidates.*,
        row_number() over (
            partition by candidates.listen_id
            order by
                candidates.is_deleted,
                coalesce(candidates.played_ms, candidates.duration_ms) desc nulls last,
                case when candidates.album is null then 1 else 0 end,
                candidates.recording_msid asc nulls last,
                candidates.payload_hash,
                {{ code_points('candidates.source') }},
                {{ code_points('candidates.origin') }} asc nulls first,
                {{ code_points('candidates.user_id') }}
        ) as preference
    from candidates
    where candidates.listen_id in (select repeated.listen_id from repeated)

),

preferred as (

    select
        {{ columns | join(', ') }},
        is_deleted
    from candidates
    where
        not exists (
            select 1
            from repeated
            where repeated.listen_id = candidates.listen_id
        )
    union all
    select
        {{ columns | join(', ') }},
        is_deleted
    from ranked
    where preference = 1

),

zones as (

    {{ time_zones() }}

),

-- What the listens themselves don't say.
recordings as (

    select * from {{ ref('int_recordings') }}

),

mapped as (

    select * from {{ ref('int_track_recordings') }}

),

winners as (

    select
        {%- for column in columns %}
        preferred.{{ column }},
        {%- endfor %}
        {{ is_skip('preferred') }} as is_skip,
        preferred.is_deleted,
        cast(null as uuid) as near_duplicate_of,
        mapped.recording_mbid as mapped_recording_mbid,
        case
            when coalesce(preferred.played_ms, preferred.duration_ms) is null
                then recordings.length_ms
        end as recording_length_ms,
        {{ local_day(
            'preferred.listened_at',
            "coalesce(zones.time_zone, '" ~ var('time_zone') ~ "')"
        ) }} as day,
        {{ change_id() }} as changed_at
    from preferred
    left join zones on lower(preferred.user_id) = zones.user_key
    left join mapped
        on
            preferred.recording_mbid is null
            and preferred.track_id = mapped.track_id
    left join recordings
        on
            coalesce(preferred.recording_mbid, mapped.recording_mbid)
            = recordings.recording_mbid

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
    or built.is_deleted != winners.is_deleted
    or built.mapped_recording_mbid is distinct from winners.mapped_recording_mbid
    or built.recording_length_ms is distinct from winners.recording_length_ms
{%- endif %}
