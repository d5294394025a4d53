-- Who is joined by hand to an entity names the entity itself, not a spelling that
-- is joined to another.
with

overrides as (

    select * from {{ ref('identity_overrides') }}

)

select
    overrides.kind,
    overrides.id,
    overrides.canonical_id
from overrides
inner join overrides as next_overrides
    on
        overrides.kind = next_overrides.kind
        and lower(overrides.canonical_id) = cast(next_overrides.id as text)
where next_overrides.canonical_id != 'split'
