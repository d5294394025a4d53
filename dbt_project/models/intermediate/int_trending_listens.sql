select
    listens.listen_id,
    listens.user_key,
    listens.track_id,
    listens.artist_id,
    listens.listened_at
from {{ ref('stg_stream__listens') }} as listens
where {{ clock_is_right('listens') }}
