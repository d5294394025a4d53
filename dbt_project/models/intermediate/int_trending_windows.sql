with

streamed as (

    select * from {{ ref('stg_stream__trending_windows') }}

),

recomputed as (

    select * from {{ ref('trending_recomputed') }}

)

-- As the trending job counted them,
select
    streamed.window_start,
    streamed.window_end,
    streamed.kind,
    streamed.id,
    streamed.artist_name,
    streamed.track_name,
    streamed.listens,
    streamed.listeners
from streamed
where
    not exists (
        select 1
        from recomputed
        where
            recomputed.window_start = streamed.window_start
            and recomputed.is_late
    )
union all
-- but recomputed where a listen may have come too late for it, or where it did
-- not run.
select
    recomputed.window_start,
    recomputed.window_end,
    recomputed.kind,
    recomputed.id,
    recomputed.artist_name,
    recomputed.track_name,
    recomputed.listens,
    recomputed.listeners
from recomputed
where
    recomputed.is_late
    or not exists (
        select 1
        from streamed
        where streamed.window_start = recomputed.window_start
    )
