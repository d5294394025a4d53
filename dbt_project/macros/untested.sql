{#- Whole-table tests cost the history. `dbt build` asks them of what has changed since they last passed; `dbt test`,
    a first build and a full refresh ask them of everything. A test takes part by `where: untested listens` or
    `where: untested days` and the tag `untested`. -#}

{#- dbt's own hook for a test's `where`. -#}
{% macro get_where_subquery(relation) -%}
    {%- set where = config.get('where') -%}
    {%- if where == 'untested listens' -%}
        {%- set where = untested_listens('updated_at') -%}
    {%- elif where == 'untested days' -%}
        {%- set where = untested_days('day') -%}
    {%- endif -%}
    {{ return('(select * from ' ~ relation ~ ' where ' ~ where ~ ') as tested' if where else relation) }}
{%- endmacro %}

{% macro untested_listens(changed_at) -%}
    {%- set changes = untested_changes() -%}
    {{ return('1 = 1' if changes is none else changed_at ~ ' in ' ~ changes) }}
{%- endmacro %}

{% macro untested_days(day) -%}
    {%- set changes = untested_changes() -%}
    {%- if changes is none -%}
        {{ return('1 = 1') }}
    {%- endif -%}
    {%- set days -%}
        select distinct listens.day
        from {{ built_relation('int_listens_deduplicated') }} as listens
        where listens.changed_at in {{ changes }}
    {%- endset -%}
    {{ return(day ~ ' = any(array(' ~ days ~ '))') }}
{%- endmacro %}

{#- The untested change ids as a list of literals (a planner that sees them takes the index); none where everything
    is to be tested: also while a change is untested that names no days. -#}
{% macro untested_changes() -%}
    {%- if not execute or flags.WHICH != 'build' -%}
        {{ return(none) }}
    {%- endif -%}
    {%- set pending = run_query(select_untested_changes()).rows -%}
    {%- if pending | selectattr('is_full') | list -%}
        {{ return(none) }}
    {%- endif -%}
    {%- set literals = ['cast(null as timestamp with time zone)'] -%}
    {%- for row in pending -%}
        {%- do literals.append("cast('" ~ row['change_id'] ~ "' as timestamp with time zone)") -%}
    {%- endfor -%}
    {{ return('(' ~ literals | join(', ') ~ ')') }}
{%- endmacro %}

{% macro select_untested_changes() -%}
    select
        cast(changes.change_id as text) as change_id,
        changes.is_full
    from {{ built_relation('int_changes') }} as changes
    where not exists (
        select 1
        from {{ built_relation('int_built_changes') }} as tested
        where tested.model_name = 'tests'
            and tested.change_id = changes.change_id
    )
{%- endmacro %}

{#- Not `ref`: a test's `where` and the end of a run are rendered outside what dbt has noted dependencies for. -#}
{% macro built_relation(model) -%}
    {{ return(graph.nodes['model.' ~ project_name ~ '.' ~ model].relation_name) }}
{%- endmacro %}

{#- At the end of a run: its changes are tested if each of these tests has run and passed. -#}
{% macro record_tested_changes(results) -%}
    {%- if execute and flags.WHICH == 'build' -%}
        {%- set passed = results | selectattr('status', 'equalto', 'pass') | map(attribute='node.unique_id') | list -%}
        {%- set missing = [] -%}
        {%- for node in graph.nodes.values()
            if node.resource_type == 'test' and 'untested' in node.tags and node.unique_id not in passed -%}
            {%- do missing.append(node.unique_id) -%}
        {%- endfor -%}
        {%- if not missing %}
            insert into {{ built_relation('int_built_changes') }} (model_name, change_id)
            select 'tests', cast(untested.change_id as timestamp with time zone)
            from ({{ select_untested_changes() }}) as untested
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}
