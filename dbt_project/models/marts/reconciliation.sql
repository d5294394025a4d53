with

loads as (

    {{ loads('deduplicated') }}

),

{%- if is_incremental() %}

-- The others stay as they are.
touched_users as (

    {{ users_of_pending_loads() }}

),
{%- endif %}

counts as (

    select
        counts.user_id,
        counts.listen_count,
        counts.checked_at,
        row_number() over (
            partition by counts.user_id
            order by counts.checked_at desc, {{ code_points('counts.load_id') }} desc
        ) as recency
    from {{ ref('stg_batch__listen_counts') }} as counts
    inner join loads on counts.load_id = loads.load_id
    {{ and_is_touched('counts.user_id') }}

),

-- Counted before they are joined: far fewer rows than listens.
landed as (

    select
        counted.user_id,
        sum(counted.landed) as landed
    from (
        select
            user_id,
            load_id,
            count(*) as landed
        from {{ ref('stg_batch__listens') }}
        where 1 = 1 {{ and_is_touched('user_id') }}
        group by user_id, load_id
        union all
        select
            user_id,
            load_id,
            count(*) as landed
        from {{ ref('stg_stream__listens') }}
        where 1 = 1 {{ and_is_touched('user_id') }}
        group by user_id, load_id
    ) as counted
    inner join loads on counted.load_id = loads.load_id
    group by counted.user_id

),

tombstones as (

    {{ newest_tombstones('deduplicated') }}

),

-- What ListenBrainz shows. Its table's unique key is what it calls one listen.
shown as (

    select distinct
        arrived.user_id,
        arrived.listened_at,
        arrived.recording_msid,
        arrived.listen_id
    from {{ ref('stg_batch__listens') }} as arrived
    inner join loads on arrived.load_id = loads.load_id
    left join tombstones
        on
            arrived.payload_hash = tombstones.payload_hash
            and arrived.user_id = tombstones.user_id
    where
        arrived.source = 'listenbrainz'
        and coalesce(tombstones.load_id < arrived.load_id, true)
        {{ and_is_touched('arrived.user_id') }}

),

held_listens as (

    select
        keys.user_id,
        count(*) as held
    from (
        select distinct
            user_id,
            listened_at,
            recording_msid
        from shown
    ) as keys
    group by keys.user_id

),

distinct_listens as (

    select distinct
        user_id,
        listen_id
    from shown

),

refused as (

    select
        quarantine.user_id,
        count(distinct quarantine.payload_hash) as refused,
        count(
            distinct case
                when
                    quarantine.source = 'listenbrainz'
                    and coalesce(tombstones.load_id < quarantine.load_id, true)
                    then quarantine.payload_hash
            end
        ) as held
    from {{ ref('stg_batch__quarantine') }} as quarantine
    inner join loads on quarantine.load_id = loads.load_id
    left join tombstones
        on
            quarantine.payload_hash = tombstones.payload_hash
            and quarantine.user_id = tombstones.user_id
    where
        1 = 1
        {{ and_is_touched("coalesce(quarantine.user_id, '')") }}
    group by quarantine.user_id

),

built as (

    select
        coalesce(listens.user_id, distinct_listens.user_id) as user_id,
        count(distinct_listens.listen_id) as shown,
        count(listens.listen_id) filter (
            where listens.is_deleted
        ) as deleted,
        count(listens.listen_id) filter (
            where {{ is_accepted('listens') }}
        ) as listens,
        count(listens.listen_id) filter (
            where not listens.is_deleted and listens.near_duplicate_of is null
            and listens.is_skip
        ) as skipped,
        count(listens.listen_id) filter (
            where listens.near_duplicate_of is not null
            and not ({{ is_accepted('listens') }})
        ) as near_duplicates,
        count(listens.listen_id) filter (
            where not listens.is_deleted
            and distinct_listens.listen_id is null
            and listens.source != 'stream'
        ) as from_files,
        count(listens.listen_id) filter (
            where not listens.is_deleted
            and distinct_listens.listen_id is null
            and listens.source = 'stream'
        ) as from_stream,
        count(distinct_listens.listen_id) filter (
            where listens.listen_id is null
        ) as under_another_spelling
    from (
        select *
        from {{ ref('int_listens_deduplicated') }}
        where 1 = 1 {{ and_is_touched('user_id') }}
    ) as listens
    full outer join distinct_listens
        on
            listens.listen_id = distinct_listens.listen_id
            and listens.user_id = distinct_listens.user_id
    group by coalesce(listens.user_id, distinct_listens.user_id)

),

users as (

    select user_id from counts
    union
    select user_id from landed
    union
    select coalesce(user_id, '') from refused

),

reconciled as (

    select
        users.user_id,
        counts.checked_at,
        counts.listen_count as reported,
        coalesce(held_listens.held, 0) + coalesce(refused.held, 0) as held,
        counts.listen_count
        - coalesce(held_listens.held, 0)
        - coalesce(refused.held, 0) as difference,
        cast(coalesce(landed.landed, 0) as bigint) as landed,
        coalesce(refused.refused, 0) as refused,
        cast(
            coalesce(landed.landed, 0)
            - coalesce(built.listens, 0)
            - coalesce(built.skipped, 0)
            - coalesce(built.near_duplicates, 0)
            - coalesce(built.deleted, 0) as bigint
        ) as duplicates,
        coalesce(built.listens, 0) as listens,
        coalesce(built.skipped, 0) as skipped,
        coalesce(built.near_duplicates, 0) as near_duplicates,
        coalesce(built.deleted, 0) as deleted,
        coalesce(refused.held, 0) as held_refused,
        coalesce(held_listens.held, 0)
        - coalesce(built.shown, 0) as held_repeats,
        coalesce(built.under_another_spelling, 0) as under_another_spelling,
        coalesce(built.from_files, 0) as from_files,
        coalesce(built.from_stream, 0) as from_stream

    from users
    left join counts
        on users.user_id = counts.user_id and counts.recency = 1
    left join landed on users.user_id = landed.user_id
    left join held_listens on users.user_id = held_listens.user_id
    left join refused on users.user_id = coalesce(refused.user_id, '')
    left join built on users.user_id = built.user_id

)

select * from reconciled
