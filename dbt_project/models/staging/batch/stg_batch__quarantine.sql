with

source as (

    select * from {{ source('batch', 'quarantine') }}

),

renamed as (

    select
        _dlt_load_id as load_id,
        payload_hash,
        user_name as user_id,
        source,
        origin,
        position as record_position,
        reason,
        payload,
        seen_at

    from source

)

select * from renamed
