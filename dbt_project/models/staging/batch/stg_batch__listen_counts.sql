with

source as (

    select * from {{ source('batch', 'listen_counts') }}

),

renamed as (

    select
        _dlt_load_id as load_id,
        user_name as user_id,
        listen_count,
        checked_at

    from source

)

select * from renamed
