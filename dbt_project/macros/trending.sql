{#- The trending windows: [start, start + trending_window_minutes), one every trending_slide_minutes. -#}

{% macro minutes_interval(name) -%}
    interval '{{ var(name) }} minutes'
{%- endmacro %}

{% macro window_end_of(window_start) -%}
    {{ window_start }} + {{ minutes_interval('trending_window_minutes') }}
{%- endmacro %}

{#- A lateral subquery: the starts of the windows that hold `instant`. -#}
{% macro window_starts_of(instant) -%}
    (
        select
            to_timestamp(
                floor(extract(epoch from {{ instant }}) / slides.seconds) * slides.seconds
            ) - slides.place * slides.seconds * interval '1 second' as window_start
        from (
            select
                {{ var('trending_slide_minutes') }} * 60 as seconds,
                generate_series(
                    0, {{ var('trending_window_minutes') }} / {{ var('trending_slide_minutes') }} - 1
                ) as place
        ) as slides
    )
{%- endmacro %}

{#- A clock that runs ahead must not count, nor push the watermark past everybody. -#}
{% macro clock_is_right(listens) -%}
    {{ listens }}.listened_at
    <= {{ listens }}.kafka_timestamp + interval '{{ var("trending_clock_ahead_seconds") }} seconds'
{%- endmacro %}

{% macro now() -%}
    current_timestamp
{%- endmacro %}
