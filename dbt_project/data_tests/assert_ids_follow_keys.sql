-- Ids are the md5 of their keys, as identity.py says.
{{ config(tags=['untested']) }}
with

named as (

    select distinct
        artist_id,
        track_id,
        artist_key,
        track_key
    from {{ ref('int_listens_deduplicated') }}
    where {{ untested_listens('changed_at') }}

)

select *
from named
where
    artist_id != cast(md5(artist_key) as uuid)
    or track_id != cast(md5(artist_key || chr(31) || track_key) as uuid)
