with

source as (

    select * from {{ source('stream', 'loads') }}

),

renamed as (

    select
        load_id,
        events,
        listens,
        refused,
        committed_at as loaded_at

    from source

)

select * from renamed
