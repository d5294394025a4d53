select
    cast(null as text) as model_name,
    cast(null as text) as load_id
where 1 = 0
