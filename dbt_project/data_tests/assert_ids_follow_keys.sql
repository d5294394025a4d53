-- The ids of the newest change are the md5 of their keys, as identity.py says.
with

newest as (

    select max(changes.change_id) as change_id
    from {{ ref('int_changes') }} as changes

),

sample as (

    select listens.*
    from {{ ref('int_listens_deduplicated') }} as listens
    inner join newest on listens.changed_at = newest.change_id
    order by listens.listen_id
    limit 10000

)

select
    listen_id,
    artist_key,
    track_key
from sample
where
    artist_id != cast(md5(artist_key) as uuid)
    or track_id != cast(md5(artist_key || chr(31) || track_key) as uuid)
