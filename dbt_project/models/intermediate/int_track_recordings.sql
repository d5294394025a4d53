with

loads as (

    {{ loads() }}

),

ranked as (

    select
        landed.*,
        row_number() over (
            partition by landed.track_id
            order by {{ code_points('landed.load_id') }} desc
        ) as recency
    from {{ ref('stg_batch__track_recordings') }} as landed
    inner join loads on landed.load_id = loads.load_id

)

select
    track_id,
    load_id,
    recording_mbid
from ranked
where recency = 1
