-- No spelling is counted beside the entity that it belongs to.
{{ config(tags=['untested']) }}
with

spellings as (

    select day
    from {{ ref('user_daily_tracks') }}
    where
        track_id in (
            select redirects.id
            from {{ ref('int_redirects') }} as redirects
            where redirects.kind = 'track' and redirects.is_current
        )
        or artist_id in (
            select redirects.id
            from {{ ref('int_redirects') }} as redirects
            where redirects.kind = 'artist' and redirects.is_current
        )

)

select spellings.day
from spellings
