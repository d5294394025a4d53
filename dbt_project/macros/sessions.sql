{#- Sessions: listens of a user that start at most var session_gap_minutes after each other. -#}

{#- True when user_sessions is built anew. -#}
{% macro rebuilds_sessions() -%}
    {#- Named here, too, for dbt to see what the conditional parts depend on. -#}
    {%- do ref('int_built_rules') -%}
    {%- do ref('int_user_time_zones') -%}
    {{ return(rebuilds_all() or has_rule_changed(['session_gap_minutes'])) }}
{%- endmacro %}

{#- Pre-hook of user_sessions: takes out the sessions that the pending changes can change (a listen may have left one,
    lengthen one or join two), and notes them for the model, in whatever spelling of the user they stand. -#}
{% macro take_out_touched_sessions() -%}
    {%- if is_incremental() -%}
        {%- if rebuilds_sessions() -%}
            delete from {{ this }}
        {%- else -%}
            create temporary table touched_sessions on commit drop as
            select distinct held.*
            from ({{ changed_listens() }}) as changed
            inner join {{ ref('int_user_time_zones') }} as users
                on {{ folded('changed.user_id') }} = {{ folded('users.user_id') }}
            cross join lateral (
                -- Looked up by index. Sessions lie apart: an older one than these two ended too early.
                select sessions.user_id, sessions.started_at, sessions.ended_at, sessions.day
                from {{ this }} as sessions
                where sessions.user_id = users.user_id
                    and sessions.started_at <= changed.listened_at + {{ minutes_interval('session_gap_minutes') }}
                order by sessions.started_at desc
                limit 2
            ) as held
            where held.ended_at >= changed.listened_at - {{ minutes_interval('session_gap_minutes') }};
            delete from {{ this }} as sessions
            using touched_sessions
            where sessions.user_id = touched_sessions.user_id
                and sessions.started_at = touched_sessions.started_at
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}

{#- Instants in slots of so many minutes. -#}
{% macro slot_of(instant, minutes) -%}
    {{ return(adapter.dispatch('slot_of')(instant, minutes)) }}
{%- endmacro %}

{% macro default__slot_of(instant, minutes) -%}
    floor(extract(epoch from {{ instant }}) / (60 * {{ minutes }}))
{%- endmacro %}

{% macro postgres__slot_of(instant, minutes) -%}
    date_bin(interval '{{ minutes }} minutes', {{ instant }}, timestamp with time zone 'epoch')
{%- endmacro %}
