with

loads as (

    {{ loads() }}

),

ranked as (

    select
        landed.*,
        row_number() over (
            partition by landed.recording_mbid
            order by {{ code_points('landed.load_id') }} desc
        ) as recency
    from {{ ref('stg_batch__recordings') }} as landed
    inner join loads on landed.load_id = loads.load_id

)

select
    recording_mbid,
    load_id,
    is_known,
    recording_name,
    length_ms,
    artist_name,
    artist_mbids,
    release_name,
    release_mbid,
    release_year,
    genres
from ranked
where recency = 1
