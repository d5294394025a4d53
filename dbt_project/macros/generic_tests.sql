{#- The key is enforced by the database: a valid primary key on just these columns. Far cheaper than counting, and
    it holds at every moment, not only while the test runs. -#}
{% test primary_key(model, columns) %}
    select 'no primary key on ({{ columns | join(", ") }})' as failure
    where not exists (
        select 1
        from pg_catalog.pg_constraint as keys
        where keys.conrelid = cast('{{ model }}' as regclass)
            and keys.contype = 'p'
            and keys.convalidated
            and (
                select array_agg(cast(attributes.attname as text) order by attributes.attname)
                from pg_catalog.pg_attribute as attributes
                where attributes.attrelid = keys.conrelid
                    and attributes.attnum = any(keys.conkey)
            ) = array[{% for column in columns | sort %}'{{ column }}'{{ ', ' if not loop.last }}{% endfor %}]
    )
{% endtest %}

{#- The columns are unique together, counted row by row: for small tables and views. -#}
{% test unique_together(model, columns) %}
    select {{ columns | join(', ') }}, count(*) as rows_with_this_key
    from {{ model }}
    group by {{ columns | join(', ') }}
    having count(*) > 1
{% endtest %}

{#- `expression` holds in every row. -#}
{% test expression_is_true(model, expression) %}
    select *
    from {{ model }}
    where not coalesce({{ expression }}, false)
{% endtest %}
