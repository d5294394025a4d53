select
    cast(null as text) as model_name,
    cast(null as double precision) as min_play_seconds
where 1 = 0
