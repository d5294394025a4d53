{#- A CTE body: the most frequent known value of `column` for each `id` in `relation`, which holds `listens` a
    variant; ties go to the smallest, in code-point order. -#}
{% macro most_frequent(relation, id, column, ties=none) -%}
    select
        {{ id }},
        {{ column }}
    from (
        select
            {{ id }},
            {{ column }},
            row_number() over (
                partition by {{ id }}
                order by
                    sum(listens) desc,
                    {{ ties or code_points(column) }}
            ) as preference
        from {{ relation }}
        where {{ column }} is not null
        group by {{ id }}, {{ column }}
    ) as counted
    where preference = 1
{%- endmacro %}
