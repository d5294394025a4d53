select
    cast(null as text) as user_id,
    cast(null as text) as time_zone
where 1 = 0
