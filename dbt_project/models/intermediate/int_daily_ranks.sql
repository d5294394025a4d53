with

user_tracks as (

    select *
    from {{ ref('user_daily_tracks') }}
    {%- if not rebuilds_all() %}
    where day in (select changed.day from ({{ changed_listens() }}) as changed)
    {%- endif %}

),

keys as (

    select
        track_id,
        track_key,
        artist_key
    from {{ ref('tracks') }}

),

tracks as (

    select
        user_tracks.day,
        'track' as kind,
        user_tracks.track_id as id,
        keys.artist_key,
        keys.track_key,
        sum(user_tracks.listens) as listens,
        sum(user_tracks.milliseconds_listened) as milliseconds

    from user_tracks
    inner join keys on user_tracks.track_id = keys.track_id
    group by 1, 2, 3, 4, 5

),

artists as (

    select
        user_tracks.day,
        'artist' as kind,
        user_tracks.artist_id as id,
        keys.artist_key,
        '' as track_key,
        sum(user_tracks.listens) as listens,
        sum(user_tracks.milliseconds_listened) as milliseconds

    from user_tracks
    inner join keys on user_tracks.track_id = keys.track_id
    group by 1, 2, 3, 4, 5

),

entities as (

    select * from tracks
    union all
    select * from artists

),

ranked as (

    select
        day,
        kind,
        row_number() over (
            partition by day, kind
            order by
                listens desc,
                {{ code_points('artist_key') }},
                {{ code_points('track_key') }}
        ) as rank,
        id,
        cast(listens as bigint) as listens,
        {{ minutes('milliseconds') }} as minutes_listened

    from entities

)

select * from ranked
where rank <= 50
