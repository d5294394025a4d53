{#- Time zones that the seed names, one row a user however spelt: two spellings of one listen must fall on one day.
    Others are in var `time_zone`. -#}
{% macro time_zones() -%}
    select
        lower(zones.user_id) as user_key,
        min(zones.time_zone) as time_zone
    from {{ ref('user_time_zones') }} as zones
    group by lower(zones.user_id)
{%- endmacro %}

{#- The time zone of one user. -#}
{% macro time_zone_of(user_id) -%}
    coalesce(
        (
            select zones.time_zone
            from ({{ time_zones() }}) as zones
            where zones.user_key = lower({{ user_id }})
        ),
        '{{ var("time_zone") }}'
    )
{%- endmacro %}

{#- The calendar day of an instant in a time zone. -#}
{% macro local_day(instant, time_zone) -%}
    {{ return(adapter.dispatch('local_day')(instant, time_zone)) }}
{%- endmacro %}

{% macro default__local_day(instant, time_zone) -%}
    cast({{ instant }} at time zone {{ time_zone }} as date)
{%- endmacro %}

{#- Its hour there, 0 to 23. -#}
{% macro local_hour(instant, time_zone) -%}
    cast(extract(hour from {{ instant }} at time zone {{ time_zone }}) as smallint)
{%- endmacro %}

{#- Text in code-point order, whatever the database's collation. -#}
{% macro code_points(column) -%}
    {{ return(adapter.dispatch('code_points')(column)) }}
{%- endmacro %}

{% macro default__code_points(column) -%}
    {{ column }}
{%- endmacro %}

{% macro postgres__code_points(column) -%}
    {{ column }} collate "C"
{%- endmacro %}

{#- Milliseconds as minutes. -#}
{% macro minutes(milliseconds) -%}
    cast({{ milliseconds }} as double precision) / 60000
{%- endmacro %}

{#- Written after `as`: a CTE that is read more than once is planned into each reader, not spooled,
    when it is the whole history, and spooled when it is a day's. -#}
{% macro not_materialized() -%}
    {{ return(adapter.dispatch('not_materialized')()) }}
{%- endmacro %}

{% macro default__not_materialized() -%}{%- endmacro %}

{% macro postgres__not_materialized() -%}
    {{ '' if is_incremental() else 'not' }} materialized
{%- endmacro %}
