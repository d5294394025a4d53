with

days as (

    select distinct
        user_id,
        day
    from {{ ref('user_daily_hours') }}

),

-- Days in a row are as far from their place.
numbered as (

    select
        user_id,
        day,
        day - cast(
            row_number() over (partition by user_id order by day) as integer
        ) as origin
    from days

),

streaks as (

    select
        user_id,
        min(day) as first_day,
        max(day) as last_day,
        count(*) as days
    from numbered
    group by user_id, origin

)

select * from streaks
