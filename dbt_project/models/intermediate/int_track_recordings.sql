with

newest as (

    {{ newest_landed(ref('stg_batch__track_recordings'), 'track_id') }}

)

select
    track_id,
    load_id,
    recording_mbid
from newest
