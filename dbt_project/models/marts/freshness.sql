with

built as (

    select
        changes.model_name,
        max(changes.change_id) as change_id
    from {{ ref('int_built_changes') }} as changes
    where changes.model_name != 'tests'
    group by changes.model_name

),

waiting as (

    select count(*) as loads
    from ({{ loads() }}) as landed
    where
        not exists (
            select 1
            from {{ ref('int_built_loads') }} as known
            where
                known.model_name = 'int_listens_deduplicated'
                and known.load_id = landed.load_id
        )

),

streamed as (

    select max(batches.updated_at) as committed_at
    from {{ ref('stg_stream__trending_ledger') }} as batches

),

-- Subqueries: what is not asked for is not computed.
state as (

    select
        (
            select
                md5(
                    string_agg(
                        built.model_name || cast(built.change_id as text),
                        ',' order by built.model_name
                    )
                )
            from built
        ) as version,
        (select max(built.change_id) from built) as changed_at,
        (select waiting.loads from waiting) as pending_loads,
        (select streamed.committed_at from streamed) as stream_committed_at

)

select * from state
