with

windows as (

    select * from {{ ref('int_trending_windows') }}

),

history as (

    select
        window_start,
        window_end,
        kind,
        id,
        listens,
        listeners
    from windows

)

select * from history
