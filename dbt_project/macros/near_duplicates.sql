{#- Near-duplicates: one play that two clients sent, or that two files hold, a few seconds apart (docs/identity.md). -#}

{#- Post-hook of `int_listens_deduplicated`: writes near_duplicate_of, and stamps what it changed. Looks at the chains
    (listens of one track by one user, each less than near_duplicate_seconds after the one before) that this change
    touches; at all of them in a full build, or where the var has changed. -#}
{% macro mark_near_duplicates() -%}
    {%- set looks_at_all = not is_incremental() or has_rule_changed(['near_duplicate_seconds']) -%}
    {%- set columns = ['listen_id', 'track_id', 'listened_at', 'source', 'submission_client', 'origin'] -%}
    {%- set limit = "interval '1 second' * " ~ var('near_duplicate_seconds') -%}
    {%- if looks_at_all -%}
    {{ note_origins() }};
    {% endif -%}
    with recursive
    {%- if looks_at_all %}
    users as (
        select
            origins.user_id,
            {{ folded('origins.user_id') }} as user_key,
            {{ origin_of('origins') }} as origin_key
        from origins
    ),
    -- Where all comes from one origin, nothing can be found.
    users_of_several as (
        select distinct users.user_id, users.user_key
        from users
        where users.user_key in (
            select counted.user_key
            from users as counted
            group by counted.user_key
            having count(distinct counted.origin_key) > 1
        )
    ),
    listens as (
        select
            held.{{ columns | join(', held.') }},
            users_of_several.user_key,
            not held.is_skip and not held.is_deleted as takes_part,
            true as is_touched
        from {{ this }} as held
        inner join users_of_several on held.user_id = users_of_several.user_id
    ),
    {%- else %}
    -- Also the listens that got a row which did not win: another origin holds them now.
    touched as materialized (
        select written.listen_id, written.track_id, written.day
        from {{ this }} as written
        where written.changed_at = {{ change_id() }}
        {%- for landed in [ref('stg_batch__listens'), ref('stg_stream__listens')] %}
        union
        select held.listen_id, held.track_id, held.day
        from ({{ pending_loads() }}) as loads
        cross join lateral (
            select landed.listen_id
            from {{ landed }} as landed
            where landed.load_id = loads.load_id
            offset 0
        ) as arrived
        cross join lateral (
            select existing.listen_id, existing.track_id, existing.day
            from {{ this }} as existing
            where existing.listen_id = arrived.listen_id
            limit 1
        ) as held
        {%- endfor %}
    ),
    listens as (
        select
            held.{{ columns | join(', held.') }},
            {{ folded('held.user_id') }} as user_key,
            not held.is_skip and not held.is_deleted as takes_part,
            touched.listen_id is not null as is_touched
        from {{ this }} as held
        left join touched on held.listen_id = touched.listen_id
        where held.day = any(array(
                select distinct days.day + around.days
                from touched as days
                cross join (values (-1), (0), (1)) as around (days)
            ))
            and held.track_id in (select tracks.track_id from touched as tracks)
    ),
    {%- endif %}
    -- Those with a neighbour; few.
    neighbours as (
        select *
        from (
            select
                listens.*,
                listens.listened_at - lag(listens.listened_at) over in_order as since_last,
                lead(listens.listened_at) over in_order - listens.listened_at as until_next
            from listens
            window in_order as (partition by listens.track_id, listens.user_key order by listens.listened_at)
        ) as placed
        where placed.since_last < {{ limit }} or placed.until_next < {{ limit }}
    ),
    numbered as (
        select
            neighbours.*,
            count(*) filter (where coalesce(neighbours.since_last >= {{ limit }}, true))
                over (partition by neighbours.track_id, neighbours.user_key order by neighbours.listened_at)
                as chain_number
        from neighbours
    ),
    chains as materialized (
        select *
        from (
            select
                numbered.*,
                first_value(numbered.listen_id) over in_order as chain_id,
                bool_or(numbered.is_touched)
                    over (partition by numbered.track_id, numbered.user_key, numbered.chain_number)
                    as chain_is_touched
            from numbered
            window in_order as (
                partition by numbered.track_id, numbered.user_key, numbered.chain_number
                order by numbered.listened_at
            )
        ) as joined
        where joined.chain_is_touched
    ),
    pairs as materialized (
        select
            later.chain_id,
            later.listen_id,
            later.listened_at,
            earlier.listen_id as earlier_id,
            earlier.listened_at as earlier_at
        from chains as earlier
        inner join chains as later
            on earlier.chain_id = later.chain_id
            and earlier.listened_at < later.listened_at
            and later.listened_at - earlier.listened_at < {{ limit }}
        where earlier.takes_part
            and later.takes_part
            and {{ origin_of('earlier') }} != {{ origin_of('later') }}
    ),
    paired as materialized (
        select pairs.listen_id, pairs.listened_at from pairs
        union
        select pairs.earlier_id, pairs.earlier_at from pairs
    ),
    -- Every origin that has the listen, not only that of its best row.
    found_in as materialized (
        {%- for landed in [ref('stg_batch__listens'), ref('stg_stream__listens')] %}
        select landed.listen_id, {{ origin_of('landed') }} as origin_key
        from {{ landed }} as landed
        where landed.listened_at between
            (select min(paired.listened_at) from paired)
            and (select max(paired.listened_at) from paired)
            and landed.listen_id in (select paired.listen_id from paired)
            and landed.load_id in ({{ loads() }})
            {%- if loop.last %}
            -- What the stream brought of a listen that was landed otherwise, too, is no other origin: a replay.
            and not exists (
                select 1
                from {{ ref('stg_batch__listens') }} as batch
                where batch.listened_at between
                    (select min(paired.listened_at) from paired)
                    and (select max(paired.listened_at) from paired)
                    and batch.listen_id = landed.listen_id
                    and batch.load_id in ({{ loads() }})
            )
            {%- endif %}
        {{ 'union' if not loop.last }}
        {%- endfor %}
    ),
    of_one_origin as (
        select pairs.listen_id, pairs.earlier_id
        from pairs
        inner join found_in as earlier on pairs.earlier_id = earlier.listen_id
        inner join found_in as later
            on pairs.listen_id = later.listen_id
            and earlier.origin_key = later.origin_key
    ),
    queue as materialized (
        select
            repeats.*,
            row_number() over (partition by repeats.chain_id order by repeats.listened_at) as place
        from (
            select
                pairs.chain_id,
                pairs.listen_id,
                pairs.listened_at,
                array_agg(pairs.earlier_id order by pairs.earlier_at) as earlier_ids
            from pairs
            where not exists (
                select 1
                from of_one_origin
                where of_one_origin.listen_id = pairs.listen_id
                    and of_one_origin.earlier_id = pairs.earlier_id
            )
            group by pairs.chain_id, pairs.listen_id, pairs.listened_at
        ) as repeats
    ),
    -- In order of start: only what is kept itself has near-duplicates.
    judged as (
        select
            queue.chain_id,
            queue.place,
            queue.listen_id,
            queue.earlier_ids[1] as near_duplicate_of,
            array[queue.listen_id] as left_out
        from queue
        where queue.place = 1
        union all
        select
            queue.chain_id,
            queue.place,
            queue.listen_id,
            kept.listen_id,
            case when kept.listen_id is null then judged.left_out else judged.left_out || queue.listen_id end
        from judged
        inner join queue on judged.chain_id = queue.chain_id and judged.place + 1 = queue.place
        left join lateral (
            select earlier.listen_id
            from unnest(queue.earlier_ids) with ordinality as earlier (listen_id, place)
            where earlier.listen_id != all(judged.left_out)
            order by earlier.place
            limit 1
        ) as kept on true
    ),
    verdicts as (
        select chains.listen_id, judged.near_duplicate_of
        from chains
        left join judged on chains.listen_id = judged.listen_id
        {%- if looks_at_all and is_incremental() %}
        union all
        select held.listen_id, null
        from {{ this }} as held
        where held.near_duplicate_of is not null
            and held.listen_id not in (select chains.listen_id from chains)
        {%- endif %}
    )
    update {{ this }} as held
    set near_duplicate_of = verdicts.near_duplicate_of, changed_at = {{ change_id() }}
    from verdicts
    where held.listen_id = verdicts.listen_id
        and held.near_duplicate_of is distinct from verdicts.near_duplicate_of
    {%- if is_incremental() and has_rule_changed(['exclude_near_duplicates']) %};
    update {{ this }}
    set changed_at = {{ change_id() }}
    where near_duplicate_of is not null
    {%- endif %}
{%- endmacro %}

{#- Who has listens from where, as a temporary table of the transaction: a build of everything asks twice. -#}
{% macro note_origins() -%}
    create temporary table origins on commit drop as
    select distinct user_id, source, submission_client, origin
    from {{ this }}
{%- endmacro %}

{#- Where a row came from, as text: its source, client and file; what is unknown counts as a value. -#}
{% macro origin_of(listens) -%}
    {{ listens }}.source || chr(31) || coalesce({{ listens }}.submission_client, '')
    || chr(31) || coalesce({{ listens }}.origin, '')
{%- endmacro %}

{#- The same for people. -#}
{% macro origin_in_words(prefix) -%}
    {{ prefix }}source
    || coalesce(', client ' || {{ prefix }}submission_client, '')
    || coalesce(', file ' || left({{ prefix }}origin, 8), '')
{%- endmacro %}
