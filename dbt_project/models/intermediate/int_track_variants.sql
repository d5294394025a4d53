with

listens as (

    select *
    from {{ ref('int_listens_deduplicated') }} as listens
    where
        {{ is_accepted('listens') }}
        {%- if not rebuilds_all() %}
        and track_id in (
            select changed.track_id from ({{ changed_listens() }}) as changed
        )
        {%- endif %}

)

select
    track_id,
    -- A track id holds these three.
    any_value(artist_id) as artist_id,
    any_value(artist_key) as artist_key,
    any_value(track_key) as track_key,
    user_id,
    artist_name,
    track_name,
    album,
    recording_mbid,
    artist_mbids,
    count(*) as listens,
    max(coalesce(duration_ms, played_ms)) as duration_ms,
    min(listened_at) as first_played_at,
    max(listened_at) as last_played_at
from listens
group by
    track_id, user_id, artist_name, track_name, album, recording_mbid, artist_mbids
