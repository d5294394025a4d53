with

source as (

    select * from {{ source('batch', 'track_recordings') }}

),

renamed as (

    select
        -- ids
        _dlt_load_id as load_id,
        track_id,
        recording_mbid,

        -- timestamps
        mapped_at

    from source

)

select * from renamed
