with

measures as (

    select * from {{ ref('daily_measures') }}

),

-- Unnested among the columns, side by side: as a table of its own in the from
-- clause, each row's values would be spooled first.
metrics as (

    select
        day,
        unnest(
            array[
                'listens',
                'minutes_listened',
                'listeners',
                'distinct_tracks',
                'distinct_artists',
                'listens_without_duration'
            ]
        ) as metric,
        dimension,
        unnest(
            array[
                cast(listens as double precision),
                minutes_listened,
                cast(listeners as double precision),
                cast(distinct_tracks as double precision),
                cast(distinct_artists as double precision),
                cast(listens_without_duration as double precision)
            ]
        ) as value

    from measures

),

-- A metric that makes no sense for a dimension is null and has no row.
present as (

    select
        day,
        metric,
        dimension,
        value

    from metrics
    where value is not null

)

select * from present
