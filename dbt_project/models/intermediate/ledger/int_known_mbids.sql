select
    cast(null as text) as kind,
    cast(null as uuid) as id,
    cast(null as uuid) as artist_id,
    cast(null as text) as mbids
where 1 = 0
