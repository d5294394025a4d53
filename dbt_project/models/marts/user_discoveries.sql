-- depends_on: {{ ref('int_redirects') }}
with

found as (

    select
        user_id,
        artist_id,
        min(day) as first_day
    from {{ ref('user_daily_tracks') }}
    {%- if not rebuilds_all() %}
    where artist_id in ({{ touched_artists() }})
    {%- endif %}
    group by user_id, artist_id

)

select * from found
