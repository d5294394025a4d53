with

source as (

    select * from {{ source('batch', '_dlt_loads') }}

),

completed as (

    select
        load_id,
        schema_name as pipeline_name,
        inserted_at as loaded_at

    from source
    where status = 0

)

select * from completed
