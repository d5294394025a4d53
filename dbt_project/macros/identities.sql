{#- Identity repair: spellings that MusicBrainz ids, or the seed identity_overrides, make one (docs/identity.md). -#}

{#- Post-hook of `int_listens_deduplicated`: brings int_known_mbids and int_redirects up to date, and stamps the listens
    of what now belongs elsewhere, so that the models after it rebuild their days. -#}
{% macro repair_identities() -%}
    {%- set looks_at_all = not is_incremental() or has_rule_changed(['identity_repair']) -%}
    {{ note_known_mbids(looks_at_all) }};
    {%- if not is_incremental() %}
    delete from {{ ref('int_redirects') }};
    {%- endif %}
    with overrides as (
        select
            seeded.kind,
            seeded.id,
            cast(nullif(seeded.canonical_id, 'split') as uuid) as canonical_id
        from {{ ref('identity_overrides') }} as seeded
    ),
    -- Who is made one by hand must be there.
    targets as materialized (
        select distinct held.track_id, held.artist_id
        from {{ this }} as held
        where exists (select 1 from overrides)
            and {{ is_accepted('held') }}
            and (
                held.artist_id = any(array(select overrides.canonical_id from overrides where overrides.kind = 'artist'))
                or held.track_id = any(array(select overrides.canonical_id from overrides where overrides.kind = 'track'))
            )
    ),
    -- What has two lists is left alone: nobody knows which is meant.
    known as materialized (
        select
            noted.kind,
            noted.id,
            min(cast(noted.artist_id as text)) as artist_id,
            min(noted.mbids) as mbids
        from {{ ref('int_known_mbids') }} as noted
        where (noted.kind, noted.id) not in (select overrides.kind, overrides.id from overrides)
        group by noted.kind, noted.id
        having count(*) = 1
    ),
    artists as materialized (
        select
            known.id,
            first_value(known.id) over (partition by known.mbids order by known.id) as canonical_id
        from known
        where known.kind = 'artist'
    ),
    artist_redirects as materialized (
        select artists.id, artists.canonical_id, 'mbids' as reason
        from artists
        where artists.id != artists.canonical_id
        union all
        select overrides.id, coalesce(artists.canonical_id, overrides.canonical_id), 'override'
        from overrides
        left join artists on overrides.canonical_id = artists.id
        where overrides.kind = 'artist'
            and overrides.canonical_id in (select targets.artist_id from targets)
            and overrides.id != coalesce(artists.canonical_id, overrides.canonical_id)
    ),
    tracks as materialized (
        select
            with_artist.id,
            with_artist.artist_id,
            first_value(with_artist.id)
                over (partition by with_artist.mbids, with_artist.artist_id order by with_artist.id) as canonical_id
        from (
            select
                known.id,
                known.mbids,
                coalesce(artist_redirects.canonical_id, cast(known.artist_id as uuid)) as artist_id
            from known
            left join artist_redirects on cast(known.artist_id as uuid) = artist_redirects.id
            where known.kind = 'track'
        ) as with_artist
    ),
    wanted as materialized (
        select *
        from (
            select 'artist' as kind, redirects.id, redirects.canonical_id, redirects.canonical_id as artist_id, redirects.reason
            from artist_redirects as redirects
            union all
            select 'track', tracks.id, tracks.canonical_id, tracks.artist_id, 'mbids'
            from tracks
            where tracks.id != tracks.canonical_id
            union all
            select
                'track',
                overrides.id,
                coalesce(tracks.canonical_id, overrides.canonical_id),
                coalesce(artist_redirects.canonical_id, targets.artist_id),
                'override'
            from overrides
            inner join targets on overrides.canonical_id = targets.track_id
            left join tracks on overrides.canonical_id = tracks.id
            left join artist_redirects on targets.artist_id = artist_redirects.id
            where overrides.kind = 'track'
                and overrides.id != coalesce(tracks.canonical_id, overrides.canonical_id)
        ) as redirects
        where {{ var('identity_repair') }}
    ),
    ended as (
        update {{ ref('int_redirects') }} as held
        set is_current = false
        where held.is_current
            and (held.kind, held.id, held.canonical_id, held.artist_id, held.reason) not in (
                select wanted.kind, wanted.id, wanted.canonical_id, wanted.artist_id, wanted.reason from wanted
            )
        returning held.kind, held.id
    ),
    begun as (
        insert into {{ ref('int_redirects') }} (kind, id, canonical_id, artist_id, reason, is_current)
        select wanted.kind, wanted.id, wanted.canonical_id, wanted.artist_id, wanted.reason, true
        from wanted
        where (wanted.kind, wanted.id, wanted.canonical_id, wanted.artist_id, wanted.reason) not in (
            select held.kind, held.id, held.canonical_id, held.artist_id, held.reason
            from {{ ref('int_redirects') }} as held
            where held.is_current
        )
        returning kind, id
    ),
    moved as materialized (
        select ended.kind, ended.id from ended
        union
        select begun.kind, begun.id from begun
    )
    update {{ this }} as held
    set changed_at = {{ change_id() }}
    where exists (select 1 from moved)
        and held.changed_at != {{ change_id() }}
        and (
            held.artist_id = any(array(select moved.id from moved where moved.kind = 'artist'))
            or held.track_id = any(array(select moved.id from moved where moved.kind = 'track'))
        )
{%- endmacro %}

{#- Notes which MBIDs the accepted listens of an artist (their list) or a track (its recording) carry. -#}
{% macro note_known_mbids(looks_at_all) -%}
    {%- if looks_at_all -%}
    delete from {{ ref('int_known_mbids') }};
    with
    {%- else -%}
    with changed as (
        select written.artist_id, written.track_id, written.artist_mbids, written.recording_mbid
        from {{ this }} as written
        where written.changed_at = {{ change_id() }}
    ),
    touched as materialized (
        select 'artist' as kind, changed.artist_id as id from changed where changed.artist_mbids is not null
        union
        select 'track', changed.track_id from changed where changed.recording_mbid is not null
        union
        select noted.kind, noted.id
        from {{ ref('int_known_mbids') }} as noted
        where case
                when noted.kind = 'artist' then noted.id in (select changed.artist_id from changed)
                else noted.id in (select changed.track_id from changed)
            end
    ),
    forgotten as (
        delete from {{ ref('int_known_mbids') }} as noted
        where (noted.kind, noted.id) in (select touched.kind, touched.id from touched)
    ),
    {%- endif %}
    spelt as materialized (
        select distinct held.artist_id, held.artist_key, held.artist_mbids, held.track_id, held.recording_mbid
        from {{ this }} as held
        where (held.artist_mbids is not null or held.recording_mbid is not null)
            and {{ is_accepted('held') }}
            {%- if not looks_at_all %}
            and exists (select 1 from touched)
            and (
                held.artist_id in (select artists.id from touched as artists where artists.kind = 'artist')
                or held.track_id in (select tracks.id from touched as tracks where tracks.kind = 'track')
            )
            {%- endif %}
    )
    insert into {{ ref('int_known_mbids') }} (kind, id, artist_id, mbids)
    select 'artist', lists.artist_id, lists.artist_id, {{ complete_list('lists') }}
    from (
        select distinct
            spelt.artist_id,
            spelt.artist_key,
            replace(lower(spelt.artist_mbids), ' ', '') as mbids
        from spelt
        where spelt.artist_mbids is not null
            {{ and_is_one_of_touched('artist', looks_at_all) }}
    ) as lists
    where {{ is_list_of_artists('lists.mbids') }}
    union all
    select distinct 'track', spelt.track_id, spelt.artist_id, cast(spelt.recording_mbid as text)
    from spelt
    where spelt.recording_mbid is not null
        {{ and_is_one_of_touched('track', looks_at_all) }}
{%- endmacro %}

{% macro and_is_one_of_touched(kind, looks_at_all) -%}
    {%- if not looks_at_all -%}
    and spelt.{{ kind }}_id in (select touched.id from touched where touched.kind = '{{ kind }}')
    {%- endif -%}
{%- endmacro %}

{#- A JSON list of UUIDs, none of them one of MusicBrainz' artists for no artist in particular ([unknown], Various
    Artists, [traditional], [anonymous], [no artist], [data], [dialogue]). -#}
{% macro is_list_of_artists(mbids) -%}
    {%- set uuid = '"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"' -%}
    {%- set nobody = [
        '125ec42a-7229-4250-afc5-e057484327fe', '89ad4ac3-39f7-470e-963a-56509c546377',
        '9be7f096-97ec-4615-8957-8d40b5dcbc41', 'f731ccc4-e22a-43af-a747-64213329e088',
        'eec63d3c-3b81-4ad4-b1e4-7c147d4d2b61', '33cf029c-63b0-41a0-9855-be2a3665fb3b',
        '314e1c25-dde7-4e4d-b2f4-0a7b9f7c56dc',
    ] -%}
    {{ mbids }} ~ '^\[{{ uuid }}(,{{ uuid }})*\]$'
    and {{ mbids }} !~ '{{ nobody | join("|") }}'
{%- endmacro %}

{#- The list; with the number of names that the spelling credits, where that is more than the list has: a client that
    sends the first artist's MBID alone must not make "A feat. B" one with "A". -#}
{% macro complete_list(lists) -%}
    {%- set between_names = '( (feat|ft|featuring|with|and|x|vs)\\.? | [&+/] |; |, (?!the ))' -%}
    {{ lists }}.mbids || case
        when regexp_count({{ lists }}.artist_key, '{{ between_names }}') > regexp_count({{ lists }}.mbids, ',')
            then ' of ' || (regexp_count({{ lists }}.artist_key, '{{ between_names }}') + 1)
        else ''
    end
{%- endmacro %}

{#- A join of the current redirects of one kind, as `alias`, to the id of a spelling. -#}
{% macro join_redirects(kind, alias, id) -%}
    left join {{ ref('int_redirects') }} as {{ alias }}
        on {{ id }} = {{ alias }}.id and {{ alias }}.kind = '{{ kind }}' and {{ alias }}.is_current
{%- endmacro %}

{#- The (day, track_id) of user_daily_tracks that the pending changes touch: also where a track stood before, and where it
    stands now. -#}
{% macro touched_entities() -%}
    select distinct
        changed.day,
        entities.track_id
    from ({{ changed_listens() }}) as changed
    cross join lateral (
        select changed.track_id
        union all
        select redirects.canonical_id
        from {{ ref('int_redirects') }} as redirects
        where redirects.kind = 'track' and redirects.id = changed.track_id
    ) as entities
{%- endmacro %}

{#- Pre-hook of user_daily_tracks: as delete_touched, by entity. -#}
{% macro delete_touched_entities() -%}
    {%- if is_incremental() -%}
        delete from {{ this }}
        {%- if not rebuilds_all() %}
        where {{ in_touched_days() }} and (day, track_id) in ({{ touched_entities() }})
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}

{#- Pre-hook of user_discoveries: takes out the discoveries that are not older than a pending change of their artist, as an
    entity; also of the artist that a listen counted for before, by its artist or by its track. -#}
{% macro delete_touched_discoveries() -%}
    {%- if is_incremental() -%}
        {%- if rebuilds_all() -%}
            delete from {{ this }}
        {%- else -%}
            delete from {{ this }} as found
            using (
                select
                    entities.artist_id,
                    min(changed.day) as day
                from ({{ changed_listens() }}) as changed
                cross join lateral (
                    select changed.artist_id
                    union all
                    select redirects.artist_id
                    from {{ ref('int_redirects') }} as redirects
                    where (redirects.kind = 'artist' and redirects.id = changed.artist_id)
                        or (redirects.kind = 'track' and redirects.id = changed.track_id)
                ) as entities
                group by entities.artist_id
            ) as touched
            where found.artist_id = touched.artist_id
                and found.first_day >= touched.day
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}
