with

source as (

    select * from {{ source('stream', 'trending_windows') }}

),

renamed as (

    select
        window_start,
        window_end,
        entity_kind as kind,
        entity_id as id,
        artist_name,
        track_name,
        listen_count as listens,
        listener_count as listeners,
        updated_at

    from source

)

select * from renamed
