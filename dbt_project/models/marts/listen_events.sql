with

listens as (

    select * from {{ ref('int_listens_deduplicated') }}

),

accepted as (

    select
        listen_id,
        user_id,
        listened_at as played_at_ts,
        track_name as track,
        artist_name as artist,
        album,
        source,
        track_id,
        artist_id,
        coalesce(played_ms, duration_ms, recording_length_ms) as duration_ms,
        day,
        recording_msid,
        coalesce(recording_mbid, mapped_recording_mbid) as recording_mbid,
        inserted_at,
        near_duplicate_of,
        release_mbid,
        artist_mbids,
        submission_client,
        changed_at as updated_at

    from listens
    where
        {{ is_accepted('listens') }}

)

select * from accepted
