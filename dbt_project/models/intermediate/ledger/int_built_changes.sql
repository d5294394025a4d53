select
    cast(null as text) as model_name,
    cast(null as timestamp with time zone) as change_id
where 1 = 0
