with

source as (

    select * from {{ source('batch', 'recordings') }}

),

renamed as (

    select
        -- ids
        _dlt_load_id as load_id,
        recording_mbid,
        release_mbid,

        -- strings
        recording_name,
        artist_name,
        artist_mbids,
        release_name,
        genres,

        -- numerics
        length_ms,
        release_year,

        -- booleans
        is_known,

        -- timestamps
        fetched_at

    from source

)

select * from renamed
