select
    cast(null as timestamp with time zone) as change_id,
    cast(null as boolean) as is_full
where 1 = 0
