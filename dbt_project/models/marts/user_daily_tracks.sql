with

listens as (

    select
        events.day,
        events.user_id,
        coalesce(track_redirects.canonical_id, events.track_id) as track_id,
        coalesce(
            track_redirects.artist_id,
            artist_redirects.canonical_id,
            events.artist_id
        ) as artist_id,
        events.duration_ms
    from {{ ref('listen_events') }} as events
    {{ join_redirects('track', 'track_redirects', 'events.track_id') }}
    {{ join_redirects('artist', 'artist_redirects', 'events.artist_id') }}
    {%- if not rebuilds_all() %}
    -- Not by user: a better row of a listen may spell its user otherwise.
    where
        {{ in_touched_days() }}
        and (
            events.day,
            coalesce(track_redirects.canonical_id, events.track_id)
        ) in ({{ touched_entities() }})
    {%- endif %}
    -- One sort, by the key: what groups, the key and the models after it need no other.
    order by events.day asc, events.user_id asc, track_id asc, artist_id asc

),

counted as (

    select
        day,
        user_id,
        track_id,
        artist_id,
        count(*) as listens,
        {{ minutes('coalesce(' ~ whole_sum('duration_ms') ~ ', 0)') }} as minutes_listened,
        coalesce({{ whole_sum('duration_ms') }}, 0) as milliseconds_listened,
        count(*) - count(duration_ms) as listens_without_duration

    from listens
    group by day, user_id, track_id, artist_id

)

select * from counted
