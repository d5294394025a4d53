{%- set kinds = [
    ('track', ref('tracks'), ['artist_key', 'track_key']),
    ('artist', ref('artists'), ['artist_key']),
] -%}
with

user_tracks as {{ not_materialized() }} (

    select *
    from {{ ref('user_daily_tracks') }}
    {%- if not rebuilds_all() %}
    where {{ in_touched_days() }}
    {%- endif %}

),

{%- for kind, entities, name in kinds %}

-- Names are sorted once, not once a day.
{{ kind }}_positions as (

    select
        {{ kind }}_id,
        row_number() over (
            order by
                {%- for column in name %}
                {{ code_points(column) }}{{ ',' if not loop.last }}
                {%- endfor %}
        ) as position
    from {{ entities }}
    {%- if not rebuilds_all() %}
    where {{ kind }}_id in (select user_tracks.{{ kind }}_id from user_tracks)
    {%- endif %}

),

-- Grouped, so that the planner knows that each stands there once.
{{ kind }}_order as (

    select
        {{ kind }}_id,
        min(position) as position
    from {{ kind }}_positions
    group by {{ kind }}_id

),

by_{{ kind }} as (

    select
        day,
        {{ kind }}_id,
        {{ whole_sum('listens') }} as listens,
        {{ whole_sum('milliseconds_listened') }} as milliseconds_listened

    from user_tracks
    group by day, {{ kind }}_id

),

ranked_{{ kind }}s as (

    select
        by_{{ kind }}.day,
        '{{ kind }}' as kind,
        by_{{ kind }}.{{ kind }}_id as id,
        by_{{ kind }}.listens,
        by_{{ kind }}.milliseconds_listened,
        row_number() over (
            partition by by_{{ kind }}.day
            order by by_{{ kind }}.listens desc, {{ kind }}_order.position asc
        ) as rank

    from by_{{ kind }}
    inner join {{ kind }}_order
        on by_{{ kind }}.{{ kind }}_id = {{ kind }}_order.{{ kind }}_id

),

{%- endfor %}

top_of_days as (

    {%- for kind, entities, name in kinds %}
    select *
    from ranked_{{ kind }}s
    where rank <= 50
    {{- '\n    union all' if not loop.last }}
    {%- endfor %}

)

select
    day,
    kind,
    rank,
    id,
    listens,
    {{ minutes('milliseconds_listened') }} as minutes_listened
from top_of_days
