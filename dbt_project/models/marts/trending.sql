with

windows as (

    select * from {{ ref('int_trending_windows') }}

),

-- The newest window that has ended, and the one before it that doesn't overlap.
newest as (

    select max(windows.window_start) as window_start
    from windows
    where windows.window_end <= {{ now() }}

),

ranked_windows as (

    select newest.window_start
    from newest
    union all
    select newest.window_start - {{ minutes_interval('trending_window_minutes') }}
    from newest

),

candidates as (

    select windows.*
    from windows
    inner join ranked_windows
        on windows.window_start = ranked_windows.window_start

),

-- How much each earlier window weighs: half after the half-life.
weights as (

    select
        windows_before.place,
        power(
            cast(0.5 as double precision),
            cast(
                windows_before.place * {{ var('trending_window_minutes') }}
                as double precision
            ) / {{ var('trending_half_life_minutes') }}
        ) as weight
    from (
        select
            generate_series(
                1,
                {{ var('trending_memory_minutes') }}
                / {{ var('trending_window_minutes') }}
            ) as place
    ) as windows_before

),

oldest as (

    select min(windows.window_start) as window_start from windows

),

-- Only windows since the first one there is: before it nobody was counted.
known_weights as (

    select
        ranked_windows.window_start,
        sum(weights.weight) as weight
    from ranked_windows
    cross join weights
    cross join oldest
    where
        ranked_windows.window_start
        - weights.place * {{ minutes_interval('trending_window_minutes') }}
        >= oldest.window_start
    group by ranked_windows.window_start

),

-- An entity that nobody heard in an earlier window counts 0 for it.
baselines as (

    select
        candidates.window_start,
        candidates.kind,
        candidates.id,
        sum(earlier.listeners * weights.weight) as listeners
    from candidates
    cross join weights
    inner join windows as earlier
        on
            candidates.kind = earlier.kind
            and candidates.id = earlier.id
            and earlier.window_start
            = candidates.window_start
            - weights.place * {{ minutes_interval('trending_window_minutes') }}
    group by candidates.window_start, candidates.kind, candidates.id

),

most_listeners as (

    select
        candidates.window_start,
        max(candidates.listeners) as listeners
    from candidates
    group by candidates.window_start

),

heard as (

    select
        ranked_windows.window_start,
        count(distinct listens.user_key) as users
    from ranked_windows
    inner join {{ ref('int_trending_listens') }} as listens
        on
            ranked_windows.window_start <= listens.listened_at
            and {{ window_end_of('ranked_windows.window_start') }} > listens.listened_at
    group by ranked_windows.window_start

),

-- The sink and the job are two: either may be ahead.
active as (

    select
        most_listeners.window_start,
        greatest(most_listeners.listeners, coalesce(heard.users, 0)) as users
    from most_listeners
    left join heard on most_listeners.window_start = heard.window_start

),

scored as (

    select
        candidates.window_start,
        candidates.window_end,
        candidates.kind,
        candidates.id,
        -- A track's id is no artist's.
        coalesce(
            (
                select tracks.track_name
                from {{ ref('tracks') }} as tracks
                where tracks.track_id = candidates.id
            ),
            (
                select artists.artist_name
                from {{ ref('artists') }} as artists
                where artists.artist_id = candidates.id
            ),
            candidates.track_name,
            candidates.artist_name
        ) as name,
        coalesce(
            (
                select artists.artist_name
                from {{ ref('tracks') }} as tracks
                inner join {{ ref('artists') }} as artists
                    on tracks.artist_id = artists.artist_id
                where tracks.track_id = candidates.id
            ),
            (
                select artists.artist_name
                from {{ ref('artists') }} as artists
                where artists.artist_id = candidates.id
            ),
            candidates.artist_name
        ) as artist_name,
        candidates.listens,
        candidates.listeners,
        coalesce(baselines.listeners / known_weights.weight, 0) as baseline
    from candidates
    inner join active
        on
            candidates.window_start = active.window_start
            and candidates.listeners >= least(3, active.users)
    left join known_weights
        on candidates.window_start = known_weights.window_start
    left join baselines
        on
            candidates.window_start = baselines.window_start
            and candidates.kind = baselines.kind
            and candidates.id = baselines.id

),

ranked as (

    select
        scored.*,
        (scored.listeners - scored.baseline) / sqrt(scored.baseline + 1) as score,
        row_number() over (
            partition by scored.window_start, scored.kind
            order by
                (scored.listeners - scored.baseline) / sqrt(scored.baseline + 1) desc,
                scored.listens desc,
                {{ code_points('scored.name') }} asc,
                scored.id asc
        ) as rank
    from scored

),

trending as (

    select
        ranked.window_start,
        ranked.window_end,
        ranked.kind,
        ranked.rank,
        ranked.id,
        ranked.name,
        ranked.listens,
        ranked.listeners,
        cast(ranked.score as double precision) as score,
        previous.rank as previous_rank,
        cast(ranked.baseline as double precision) as baseline,
        ranked.artist_name
    from ranked
    inner join newest on ranked.window_start = newest.window_start
    left join ranked as previous
        on
            ranked.window_start > previous.window_start
            and ranked.kind = previous.kind
            and ranked.id = previous.id

)

select * from trending
