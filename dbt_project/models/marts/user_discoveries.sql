-- depends_on: {{ ref('int_redirects') }}
with

found as (

    select
        daily.user_id,
        daily.artist_id,
        min(daily.day) as first_day
    from {{ ref('user_daily_tracks') }} as daily
    {%- if not rebuilds_all() %}
    -- What the pre-hook took out, and who is new: none was found before the first
    -- day that the changes touch.
    where
        daily.day between
        (select min(changed.day) from ({{ changed_listens() }}) as changed)
        and cast('infinity' as date)
        and not exists (
            select 1
            from {{ this }} as known
            where
                known.user_id = daily.user_id
                and known.artist_id = daily.artist_id
        )
    {%- endif %}
    group by daily.user_id, daily.artist_id

)

select * from found
