{#- Skips: what was played for too short to count as listened to (var min_play_seconds), as ListenBrainz asks of
    clients: for half the track at least, or long enough. -#}

{% macro is_skip(listens) -%}
    coalesce(
        {{ listens }}.played_ms < {{ var('min_play_seconds') }} * 1000
        and (
            {{ listens }}.duration_ms is null
            or 2 * {{ listens }}.played_ms < {{ listens }}.duration_ms
        ),
        false
    )
{%- endmacro %}

{#- True where model `this` was built with another var. -#}
{% macro skip_rule_changed() -%}
    exists (
        select 1
        from {{ ref('int_built_rules') }} as built_rules
        where built_rules.model_name = '{{ this.identifier }}'
            and built_rules.min_play_seconds != {{ var('min_play_seconds') }}
    )
{%- endmacro %}

{#- Post-hook of the models that leave out or count skips. -#}
{% macro record_built_rule() -%}
    delete from {{ ref('int_built_rules') }} where model_name = '{{ this.identifier }}';
    insert into {{ ref('int_built_rules') }} (model_name, min_play_seconds)
    values ('{{ this.identifier }}', {{ var('min_play_seconds') }})
{%- endmacro %}
