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

-- Names are sorted once, not once a day; a place is narrower than an id, too.
{{ kind }}_positions as (

    select
        {{ kind }}_id,
        cast(
            row_number() over (
                order by
                    {%- for column in name %}
                    {{ code_points(column) }}{{ ',' if not loop.last }}
                    {%- endfor %}
            ) as integer
        ) as position
    from {{ entities }}
    {%- if not rebuilds_all() %}
    where {{ kind }}_id in (select user_tracks.{{ kind }}_id from user_tracks)
    {%- endif %}

),

-- Grouped, both ways, so that the planner knows that each stands there once.
{{ kind }}_order as (

    select
        {{ kind }}_id,
        min(position) as position
    from {{ kind }}_positions
    group by {{ kind }}_id

),

{{ kind }}_at_positions as (

    select
        position,
        any_value({{ kind }}_id) as id
    from {{ kind }}_order
    group by position

),

-- Sorted here: the groups, and the days that are ranked, then need no other sort of all rows.
placed_{{ kind }}s as (

    select
        user_tracks.day,
        {{ kind }}_order.position,
        user_tracks.listens,
        user_tracks.milliseconds_listened
    from user_tracks
    inner join {{ kind }}_order
        on user_tracks.{{ kind }}_id = {{ kind }}_order.{{ kind }}_id
    order by user_tracks.day asc, {{ kind }}_order.position asc

),

by_{{ kind }} as (

    select
        day,
        position,
        {{ whole_sum('listens') }} as listens,
        {{ whole_sum('milliseconds_listened') }} as milliseconds_listened

    from placed_{{ kind }}s
    group by day, position

),

ranked_{{ kind }}s as (

    select
        by_{{ kind }}.*,
        row_number() over (
            partition by by_{{ kind }}.day
            order by by_{{ kind }}.listens desc, by_{{ kind }}.position asc
        ) as rank

    from by_{{ kind }}

),

{%- endfor %}

top_of_days as (

    {%- for kind, entities, name in kinds %}
    select
        ranked_{{ kind }}s.day,
        '{{ kind }}' as kind,
        ranked_{{ kind }}s.rank,
        {{ kind }}_at_positions.id,
        ranked_{{ kind }}s.listens,
        ranked_{{ kind }}s.milliseconds_listened
    from ranked_{{ kind }}s
    inner join {{ kind }}_at_positions
        on ranked_{{ kind }}s.position = {{ kind }}_at_positions.position
    where ranked_{{ kind }}s.rank <= 50
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
