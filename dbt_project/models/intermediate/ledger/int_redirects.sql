select
    cast(null as text) as kind,
    cast(null as uuid) as id,
    cast(null as uuid) as canonical_id,
    cast(null as uuid) as artist_id,
    cast(null as text) as reason,
    cast(null as boolean) as is_current
where 1 = 0
