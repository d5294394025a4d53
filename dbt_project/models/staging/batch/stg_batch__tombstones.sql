with

source as (

    select * from {{ source('batch', 'tombstones') }}

),

renamed as (

    select
        -- ids
        _dlt_load_id as load_id,
        payload_hash,
        listen_id,
        user_name as user_id,
        recording_msid,

        -- strings
        reason,

        -- timestamps
        listened_at,
        seen_at

    from source

)

select * from renamed
