{#- The change ledger. `int_listens_deduplicated` consumes loads and announces a change in `int_changes`; every
    model after it consumes changes. What a model has consumed stands in `int_built_changes`, written in the
    model's own transaction, which reads one snapshot: a load that commits meanwhile is neither built nor
    recorded, and comes next time. -#}

{#- First pre-hook. dbt's own look-ups have opened a transaction already; it has written nothing. -#}
{%- macro read_one_snapshot() -%}
    commit;
    begin transaction isolation level repeatable read
{%- endmacro %}

{#- Change ids that model `this` has not built yet (all of them at a first build or a full refresh). -#}
{% macro pending_changes() -%}
    select changes.change_id
    from {{ ref('int_changes') }} as changes
    {%- if is_incremental() %}
    where not exists (
        select 1
        from {{ ref('int_built_changes') }} as built
        where built.model_name = '{{ this.identifier }}'
            and built.change_id = changes.change_id
    )
    {%- endif %}
{%- endmacro %}

{#- The rows that they wrote. The range says to the planner that they are few, and that the index is the way. -#}
{% macro changed_listens() -%}
    select listens.*
    from {{ ref('int_listens_deduplicated') }} as listens
    where listens.changed_at between
        (select min(first_pending.change_id) from ({{ pending_changes() }}) as first_pending)
        and (select max(last_pending.change_id) from ({{ pending_changes() }}) as last_pending)
        and listens.changed_at in ({{ pending_changes() }})
{%- endmacro %}

{#- A condition on `day`. As an array, since the planner then takes the index, expecting few days. -#}
{% macro in_touched_days() -%}
    {{ return(adapter.dispatch('in_touched_days')()) }}
{%- endmacro %}

{% macro default__in_touched_days() -%}
    day in (select changed.day from ({{ changed_listens() }}) as changed)
{%- endmacro %}

{% macro postgres__in_touched_days() -%}
    day = any(array(select distinct changed.day from ({{ changed_listens() }}) as changed))
{%- endmacro %}

{#- True when this run rebuilds everything: a first build, a full refresh, or a pending change that says so. -#}
{% macro rebuilds_all() -%}
    {#- Named here, too, for dbt to see what the conditional parts depend on. -#}
    {%- do ref('int_listens_deduplicated') -%}
    {%- do ref('int_changes') -%}
    {%- do ref('int_built_changes') -%}
    {%- if not execute or not is_incremental() -%}
        {{ return(true) }}
    {%- endif -%}
    {%- set found -%}
        select count(*)
        from {{ ref('int_changes') }} as changes
        where changes.is_full
            and changes.change_id in ({{ pending_changes() }})
    {%- endset -%}
    {{ return(run_query(found).columns[0][0] > 0) }}
{%- endmacro %}

{#- Pre-hook: takes out what the pending changes touch, by the columns `keys`, before the model puts it back.
    What has lost its last listen so vanishes, too. -#}
{% macro delete_touched(keys) -%}
    {%- if is_incremental() -%}
        {%- if rebuilds_all() -%}
            delete from {{ this }}
        {%- else -%}
            delete from {{ this }}
            where {% if 'day' in keys %}{{ in_touched_days() }} and {% endif %}({{ keys | join(', ') }}) in (
                select {{ keys | join(', ') }}
                from ({{ changed_listens() }}) as changed
            )
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}

{#- Post-hook of the models that consume changes. -#}
{% macro record_built_changes() -%}
    {%- if not is_incremental() %}
    delete from {{ ref('int_built_changes') }} where model_name = '{{ this.identifier }}';
    {%- endif %}
    insert into {{ ref('int_built_changes') }} (model_name, change_id)
    select '{{ this.identifier }}', pending.change_id
    from ({{ pending_changes() }}) as pending
{%- endmacro %}

{#- Loads that count, by what is asked for: `landed` (all that are completed, of batch and stream), `stream`, or
    `deduplicated` (those that int_listens_deduplicated has built, for the models after it). -#}
{% macro loads(which='landed') -%}
    {%- if which == 'deduplicated' -%}
    select built.load_id
    from {{ ref('int_built_loads') }} as built
    where built.model_name = 'int_listens_deduplicated'
    {%- elif which == 'stream' -%}
    select streamed.load_id
    from {{ ref('stg_stream__loads') }} as streamed
    {%- else -%}
    select completed.load_id
    from {{ ref('stg_batch__loads') }} as completed
    union all
    select streamed.load_id
    from {{ ref('stg_stream__loads') }} as streamed
    {%- endif -%}
{%- endmacro %}

{#- Those of them that model `this` has not built yet. -#}
{% macro pending_loads(which='landed') -%}
    select loads.load_id
    from ({{ loads(which) }}) as loads
    {%- if is_incremental() %}
    where not exists (
        select 1
        from {{ ref('int_built_loads') }} as built
        where built.model_name = '{{ this.identifier }}'
            and built.load_id = loads.load_id
    )
    {%- endif %}
{%- endmacro %}

{% macro record_built_loads(which='landed') -%}
    {%- if not is_incremental() %}
    delete from {{ ref('int_built_loads') }} where model_name = '{{ this.identifier }}';
    {%- endif %}
    insert into {{ ref('int_built_loads') }} (model_name, load_id)
    select '{{ this.identifier }}', pending.load_id
    from ({{ pending_loads(which) }}) as pending
{%- endmacro %}

{#- Post-hook of `int_listens_deduplicated`: announces what this run changed, and the time zones it used. A full
    build, or a user with a new time zone, touches days that no row names any more: such a change is full. -#}
{% macro announce_change() -%}
    insert into {{ ref('int_changes') }} (change_id, is_full)
    select
        {{ change_id() }},
        {{ 'false' if is_incremental() else 'true' }}
        or exists (
            select 1
            from {{ ref('int_user_time_zones') }} as used
            where used.time_zone != {{ time_zone_of('used.user_id') }}
        )
    {% if is_incremental() -%}
    where exists (select 1 from {{ this }} where changed_at = {{ change_id() }})
    {%- endif -%}
    ;
    {%- if is_incremental() %}
    update {{ ref('int_user_time_zones') }} as used
    set time_zone = {{ time_zone_of('used.user_id') }}
    where used.time_zone != {{ time_zone_of('used.user_id') }};
    {%- else %}
    delete from {{ ref('int_user_time_zones') }};
    {%- endif %}
    insert into {{ ref('int_user_time_zones') }} (user_id, time_zone)
    select
        users.user_id,
        {{ time_zone_of('users.user_id') }}
    from (
        {%- if is_incremental() %}
        select distinct user_id from {{ this }} where changed_at = {{ change_id() }}
        {%- else %}
        -- mark_near_duplicates has noted them.
        select distinct user_id from origins
        {%- endif %}
    ) as users
    where users.user_id not in (select used.user_id from {{ ref('int_user_time_zones') }} as used)
{%- endmacro %}

{#- One id a run: when it started. -#}
{% macro change_id() -%}
    cast('{{ run_started_at.isoformat() }}' as timestamp with time zone)
{%- endmacro %}

{#- Post-hook: fresh planner statistics, since the next model reads this table at once. -#}
{% macro refresh_statistics() -%}
    {{ return(adapter.dispatch('refresh_statistics')()) }}
{%- endmacro %}

{% macro default__refresh_statistics() -%}{%- endmacro %}

{% macro postgres__refresh_statistics() -%}
    {#- What a day adds, autovacuum notes in its own time. -#}
    {%- if not is_incremental() -%}
    analyze {{ this }}
    {%- endif -%}
{%- endmacro %}

{#- The users whom loads concern that `this` has not built yet, and those that `this` holds in another spelling (a
    listen may have moved between the two). -#}
{% macro users_of_pending_loads() -%}
    with arrived as (
        select distinct landed.user_id
        from ({{ pending_loads('deduplicated') }}) as loads
        cross join lateral (
            select listens.user_id
            from {{ ref('stg_batch__listens') }} as listens
            where listens.load_id = loads.load_id
            offset 0
        ) as landed
        union
        select distinct streamed.user_id
        from ({{ pending_loads('deduplicated') }}) as loads
        cross join lateral (
            select listens.user_id
            from {{ ref('stg_stream__listens') }} as listens
            where listens.load_id = loads.load_id
            offset 0
        ) as streamed
        union
        select coalesce(quarantine.user_id, '')
        from {{ ref('stg_batch__quarantine') }} as quarantine
        where quarantine.load_id in ({{ pending_loads('deduplicated') }})
        union
        select counts.user_id
        from {{ ref('stg_batch__listen_counts') }} as counts
        where counts.load_id in ({{ pending_loads('deduplicated') }})
    )

    select arrived.user_id
    from arrived
    union
    select built.user_id
    from {{ this }} as built
    where {{ folded('built.user_id') }} in (select {{ folded('arrived.user_id') }} from arrived)
        or {{ rule_changed(['min_play_seconds', 'near_duplicate_seconds', 'exclude_near_duplicates']) }}
{%- endmacro %}

{#- Two spellings of one name. -#}
{% macro folded(name) -%}
    lower(trim(normalize({{ name }})))
{%- endmacro %}

{#- In a model that has the CTE `touched_users`. -#}
{% macro and_is_touched(user_id) -%}
    {%- if is_incremental() -%}
        and {{ user_id }} in (select touched_users.user_id from touched_users)
    {%- endif -%}
{%- endmacro %}
