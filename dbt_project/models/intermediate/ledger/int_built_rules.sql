select
    cast(null as text) as model_name,
    cast(null as double precision) as min_play_seconds,
    cast(null as double precision) as near_duplicate_seconds,
    cast(null as boolean) as exclude_near_duplicates,
    cast(null as boolean) as identity_repair,
    cast(null as double precision) as session_gap_minutes
where 1 = 0
