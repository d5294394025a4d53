with

source as (

    select * from {{ source('stream', 'trending_ledger') }}

),

renamed as (

    select
        query_id,
        batch_id,
        watermark,
        updated_at

    from source

)

select * from renamed
