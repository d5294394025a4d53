with

source as (

    select * from {{ source('stream', 'listens') }}

),

renamed as (

    select
        -- ids
        load_id,
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
        cast(null as bigint) as played_ms,

        -- timestamps
        listened_at,
        inserted_at,

        -- where it first stood in Kafka
        user_key,
        kafka_partition,
        kafka_offset,
        kafka_timestamp

    from source

)

select * from renamed
