{#- What raw says last: of rows that are landed again and again, the newest. -#}

{#- Of each `key`, the row that the newest of the loads brought. -#}
{% macro newest_landed(landed, key) -%}
    select ranked.*
    from (
        select
            landed.*,
            row_number() over (
                partition by landed.{{ key }}
                order by {{ code_points('landed.load_id') }} desc
            ) as recency
        from {{ landed }} as landed
        where landed.load_id in ({{ loads() }})
    ) as ranked
    where ranked.recency = 1
{%- endmacro %}

{#- The newest tombstone of a payload in these loads; it binds the rows loaded before it. -#}
{% macro newest_tombstones(which='landed') -%}
    select
        written.payload_hash,
        written.user_id,
        max({{ code_points('written.load_id') }}) as load_id
    from {{ ref('stg_batch__tombstones') }} as written
    where written.load_id in ({{ loads(which) }})
    group by written.payload_hash, written.user_id
{%- endmacro %}
