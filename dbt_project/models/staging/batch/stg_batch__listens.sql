with

source as (

    select * from {{ source('batch', 'listens') }}

),

renamed as (

    select
        -- ids
        _dlt_load_id as load_id,
        listen_id,
        user_name as user_id,
        artist_id,
        track_id,
        recording_msid,
        recording_mbid,
        release_mbid,
        payload_hash,

        -- strings
        artist_name,
        track_name,
        album,
        artist_key,
        track_key,
        artist_mbids,
        submission_client,
        source,
        origin,

        -- numerics
        duration_ms,
        played_ms,

        -- timestamps
        listened_at,
        inserted_at

    from source

)

select * from renamed
