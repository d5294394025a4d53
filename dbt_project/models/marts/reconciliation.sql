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
            partition by counts.user_id order by counts.checked_at desc
        ) as recency
    from {{ ref('stg_batch__listen_counts') }} as counts
    inner join loads on counts.load_id = loads.load_id
    {{ and_is_touched('counts.user_id') }}

),

landed as (

    select
        rows_of_user.user_id,
        sum(rows_of_user.landed) as landed
    from (
        select
            listens.user_id,
            count(*) as landed
        from {{ ref('stg_batch__listens') }} as listens
        inner join loads on listens.load_id = loads.load_id
        {{ and_is_touched('listens.user_id') }}
        group by listens.user_id
        union all
        select
            listens.user_id,
            count(*) as landed
        from {{ ref('stg_stream__listens') }} as listens
        inner join loads on listens.load_id = loads.load_id
        {{ and_is_touched('listens.user_id') }}
        group by listens.user_id
    ) as rows_of_user
    group by rows_of_user.user_id

),

-- What ListenBrainz calls one listen (its table's unique key).
held_listens as (

    select
        listens.user_id,
        count(*) as held
    from (
        select distinct
            arrived.user_id,
            arrived.listened_at,
            arrived.recording_msid
        from {{ ref('stg_batch__listens') }} as arrived
        inner join loads on arrived.load_id = loads.load_id
        where
            arrived.source = 'listenbrainz'
            {{ and_is_touched('arrived.user_id') }}
    ) as listens
    group by listens.user_id

),

refused as (

    select
        quarantine.user_id,
        count(distinct quarantine.payload_hash) as refused,
        count(
            distinct case
                when quarantine.source = 'listenbrainz'
                    then quarantine.payload_hash
            end
        ) as held
    from {{ ref('stg_batch__quarantine') }} as quarantine
    inner join loads on quarantine.load_id = loads.load_id
    {{ and_is_touched("coalesce(quarantine.user_id, '')") }}
    group by quarantine.user_id

),

accepted as (

    select
        user_id,
        count(*) as listens
    from {{ ref('listen_events') }}
    where
        near_duplicate_of is null
        {{ and_is_touched('user_id') }}
    group by user_id

),

skipped as (

    select
        listens.user_id,
        count(*) as skipped
    from {{ ref('int_listens_deduplicated') }} as listens
    where
        listens.is_skip
        and listens.near_duplicate_of is null
        {{ and_is_touched('listens.user_id') }}
    group by listens.user_id

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
            - coalesce(accepted.listens, 0)
            - coalesce(skipped.skipped, 0) as bigint
        ) as duplicates,
        coalesce(accepted.listens, 0) as listens,
        coalesce(skipped.skipped, 0) as skipped

    from users
    left join counts
        on users.user_id = counts.user_id and counts.recency = 1
    left join landed on users.user_id = landed.user_id
    left join held_listens on users.user_id = held_listens.user_id
    left join refused on users.user_id = coalesce(refused.user_id, '')
    left join accepted on users.user_id = accepted.user_id
    left join skipped on users.user_id = skipped.user_id

)

select * from reconciled
