with

pending_loads as (

    {{ pending_loads('stream') }}

),

arrived as (

    select listens.*
    from pending_loads
    cross join lateral (
        select *
        from {{ ref('stg_stream__listens') }} as landed
        where
            landed.load_id = pending_loads.load_id
            and {{ clock_is_right('landed') }}
        {%- if is_incremental() %}
        offset 0
        {%- endif %}
    ) as listens

),

-- The newest listen that was there before these came: its clock is right, too.
built_before as (

    select max(newest.listened_at) as listened_at
    from (
        select listens.listened_at
        from {{ ref('stg_stream__listens') }} as listens
        where
            listens.load_id not in (select pending_loads.load_id from pending_loads)
            and {{ clock_is_right('listens') }}
        order by listens.listened_at desc
        limit 1
    ) as newest

),

-- The watermark as it stood at the latest when a listen came, in broker order:
-- the job may have been slower than that, never faster.
with_watermark as (

    select
        arrived.*,
        greatest(
            max(arrived.listened_at) over (
                order by
                    arrived.kafka_timestamp asc,
                    arrived.kafka_partition asc,
                    arrived.kafka_offset asc
                rows between unbounded preceding and 1 preceding
            ),
            built_before.listened_at
        ) - {{ minutes_interval('trending_watermark_minutes') }} as watermark
    from arrived
    cross join built_before

),

touched as (

    select
        windows.window_start,
        bool_or(
            coalesce(
                {{ window_end_of('windows.window_start') }} <= listens.watermark,
                false
            )
        ) as is_late
    from with_watermark as listens
    cross join lateral {{ window_starts_of('listens.listened_at') }} as windows
    group by windows.window_start

),

counted as (

    select
        touched.window_start,
        listens.track_id,
        listens.artist_id,
        listens.user_key,
        count(*) as listens,
        min({{ code_points('listens.artist_name') }}) as artist_name,
        min({{ code_points('listens.track_name') }}) as track_name
    from touched
    inner join {{ ref('stg_stream__listens') }} as listens
        on
            touched.window_start <= listens.listened_at
            and {{ window_end_of('touched.window_start') }} > listens.listened_at
    where {{ clock_is_right('listens') }}
    group by
        touched.window_start, listens.track_id, listens.artist_id, listens.user_key

),

by_artist_and_user as (

    select
        window_start,
        artist_id,
        user_key,
        sum(listens) as listens,
        min({{ code_points('artist_name') }}) as artist_name
    from counted
    group by window_start, artist_id, user_key

),

windows as (

    select
        window_start,
        'track' as kind,
        track_id as id,
        min({{ code_points('artist_name') }}) as artist_name,
        min({{ code_points('track_name') }}) as track_name,
        sum(least(listens, {{ var('trending_listens_per_user') }})) as listens,
        count(*) as listeners
    from counted
    group by window_start, track_id
    union all
    select
        window_start,
        'artist' as kind,
        artist_id as id,
        min({{ code_points('artist_name') }}) as artist_name,
        null as track_name,
        sum(least(listens, {{ var('trending_listens_per_user') }})) as listens,
        count(*) as listeners
    from by_artist_and_user
    group by window_start, artist_id

),

recomputed as (

    select
        windows.window_start,
        {{ window_end_of('windows.window_start') }} as window_end,
        windows.kind,
        windows.id,
        windows.artist_name,
        windows.track_name,
        cast(windows.listens as bigint) as listens,
        cast(windows.listeners as bigint) as listeners,
        touched.is_late
        {%- if is_incremental() %}
        or exists (
            select 1
            from {{ this }} as built
            where built.window_start = windows.window_start and built.is_late
        )
        {%- endif %} as is_late
    from windows
    inner join touched on windows.window_start = touched.window_start

)

select * from recomputed
