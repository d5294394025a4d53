with

newest as (

    {{ newest_landed(ref('stg_batch__recordings'), 'recording_mbid') }}

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
from newest
