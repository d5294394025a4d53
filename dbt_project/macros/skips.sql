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
