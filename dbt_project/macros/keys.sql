{#- Post-hook: the primary key of `this`, added where it is missing. Built after the rows are in, it sorts them
    once; as a contract's constraint it would be filled row by row, at several times the cost (measured in
    docs/decisions/). From then on the database enforces it. -#}
{% macro enforce_primary_key(columns) -%}
    {{ return(adapter.dispatch('enforce_primary_key')(columns)) }}
{%- endmacro %}

{% macro default__enforce_primary_key(columns) -%}{%- endmacro %}

{% macro postgres__enforce_primary_key(columns) -%}
    {%- if not is_incremental() -%}
        alter table {{ this }} add primary key ({{ columns | join(', ') }})
    {%- endif -%}
{%- endmacro %}
