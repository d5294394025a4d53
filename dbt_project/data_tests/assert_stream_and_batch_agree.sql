-- The trending job's windows are those that SQL counts from the landed listens:
-- closed windows that no listen came too late for.
with

-- Neither the job nor the sink of raw listens gets a listen of these any more.
settled as (

    select
        least(
            (select max(watermark) from {{ ref('stg_stream__trending_ledger') }}),
            (select max(listened_at) from {{ ref('int_trending_listens') }})
            - {{ minutes_interval('trending_watermark_minutes') }}
            - interval '1 minute'
        ) as until

),

streamed as (

    select windows.*
    from {{ ref('stg_stream__trending_windows') }} as windows
    inner join settled on windows.window_end <= settled.until
    where
        windows.window_start not in (
            select late.window_start
            from {{ ref('trending_recomputed') }} as late
            where late.is_late
        )

),

recomputed as (

    select *
    from {{ ref('trending_recomputed') }}
    where window_start in (select streamed.window_start from streamed)

)

select
    coalesce(streamed.window_start, recomputed.window_start) as window_start,
    coalesce(streamed.kind, recomputed.kind) as kind,
    coalesce(streamed.id, recomputed.id) as id,
    streamed.listens as streamed_listens,
    recomputed.listens as recomputed_listens,
    streamed.listeners as streamed_listeners,
    recomputed.listeners as recomputed_listeners
from streamed
full outer join recomputed
    on
        streamed.window_start = recomputed.window_start
        and streamed.kind = recomputed.kind
        and streamed.id = recomputed.id
where
    streamed.listens is distinct from recomputed.listens
    or streamed.listeners is distinct from recomputed.listeners
