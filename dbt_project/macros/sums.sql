{#- The sum of a column of whole numbers, as bigint; null where there is none. -#}
{% macro whole_sum(column) -%}
    {{ return(adapter.dispatch('whole_sum')(column)) }}
{%- endmacro %}

{% macro default__whole_sum(column) -%}
    cast(sum({{ column }}) as bigint)
{%- endmacro %}

{#- Postgres adds bigints as numerics, at twice the time and memory of doubles, whose sum is exact, too, below 2^53:
    as milliseconds that is 285,000 years. -#}
{% macro postgres__whole_sum(column) -%}
    cast(sum(cast({{ column }} as double precision)) as bigint)
{%- endmacro %}
