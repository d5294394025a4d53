{#- The vars that decide which listens count, and how. What a model was built with stands in `int_built_rules`, so that
    another value takes effect at the next build. -#}
{% macro rules() -%}
    {{ return([
        'min_play_seconds', 'near_duplicate_seconds', 'exclude_near_duplicates', 'identity_repair',
        'session_gap_minutes',
    ]) }}
{%- endmacro %}

{#- True where model `this` was built with another value of one of these vars. -#}
{% macro rule_changed(names) -%}
    exists (
        select 1
        from {{ ref('int_built_rules') }} as built_rules
        where built_rules.model_name = '{{ this.identifier }}'
            and (
                {%- for name in names %}
                built_rules.{{ name }} is distinct from {{ var(name) }}{{ ' or' if not loop.last }}
                {%- endfor %}
            )
    )
{%- endmacro %}

{#- The same, asked of the database now. -#}
{% macro has_rule_changed(names) -%}
    {{ return(run_query('select ' ~ rule_changed(names)).columns[0][0]) }}
{%- endmacro %}

{#- Post-hook of the models that read such vars. -#}
{% macro record_built_rules() -%}
    delete from {{ ref('int_built_rules') }} where model_name = '{{ this.identifier }}';
    insert into {{ ref('int_built_rules') }} (model_name, {{ rules() | join(', ') }})
    values ('{{ this.identifier }}'{% for name in rules() %}, {{ var(name) }}{% endfor %})
{%- endmacro %}

{#- The listens that the marts hold. -#}
{% macro is_accepted(listens) -%}
    {{ listens }}.is_skip is not true
    and {{ listens }}.is_deleted is not true
    {%- if var('exclude_near_duplicates') %}
    and {{ listens }}.near_duplicate_of is null
    {%- endif %}
{%- endmacro %}
