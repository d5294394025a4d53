-- The ids of the newest change are the md5 of their keys, as identity.py says.
with

newest as (

    select listens.*
    from {{ ref('int_listens_deduplicated') }} as listens
    where
        listens.changed_at = (
            select max(changes.change_id)
            from {{ ref('int_changes') }} as changes
        )

)

select
    listen_id,
    artist_key,
    track_key
from newest
where
    artist_id != cast(md5(artist_key) as uuid)
    or track_id != cast(md5(artist_key || chr(31) || track_key) as uuid)
