{#- dbt's own makes a view beside the old one, renames both and drops the old one: four statements for a view that is
    as it was, and what others have built on it is gone each time. This one replaces it in place; only where its
    columns are others is it dropped first. -#}
{% materialization view, adapter='postgres' %}
    {%- set existing = load_cached_relation(this) -%}
    {%- set view = this.incorporate(type='view') -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}
    {%- if existing is not none and not existing.is_view -%}
        {%- do adapter.drop_relation(existing) -%}
    {%- endif %}

    {% call statement('main') -%}
        {%- set create = get_create_view_as_sql(view, sql) -%}
        do $pulse$
        begin
            {{ create | replace('create view', 'create or replace view', 1) }}
        exception when invalid_table_definition then
            drop view {{ view }} cascade;
            {{ create }}
        end
        $pulse$
    {%- endcall %}

    {%- do apply_grants(view, config.get('grants'), should_revoke=should_revoke(existing, full_refresh_mode=True)) -%}
    {%- do persist_docs(view, model) %}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {{ return({'relations': [view]}) }}
{% endmaterialization %}

{#- A table that is made once and then belongs to the hooks of other models; `select` only says which columns it has. -#}
{% materialization ledger, adapter='postgres' %}
    {%- set table = this.incorporate(type='table') -%}
    {%- if load_cached_relation(this) is none -%}
        {% call statement('main') -%}
            {{ get_create_table_as_sql(False, table, sql) }}
        {%- endcall %}
        {%- do persist_docs(table, model) -%}
        {{ adapter.commit() }}
    {%- else -%}
        {% call noop_statement('main', 'KEPT') %}{% endcall %}
    {%- endif %}
    {{ return({'relations': [table]}) }}
{% endmaterialization %}
