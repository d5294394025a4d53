"""The statements of the read API: constants, over schema `marts` only. Parameters of most: user (null: all), first and
last day, limit and offset."""

from __future__ import annotations

STATUS = "select version, changed_at, pending_loads, stream_committed_at from marts.freshness"

DAYS_OF_ALL = "select min(day) as first_day, max(day) as last_day from marts.user_daily_tracks"
DAYS_OF_USER = "select min(day) as first_day, max(day) as last_day from marts.user_daily_hours where user_id = %(user)s"

_IN_PERIOD = """
    day between %(first)s and %(last)s
    and (%(user)s::text is null or user_id = %(user)s::text)
"""
_PAGE = "limit %(limit)s offset %(offset)s"

# Which spelling names an entity.
_ENTITIES = "(select distinct kind, canonical_id, canonical_name from marts.entity_redirects)"

USERS = f"""
    select
        user_id,
        sum(listens)::bigint as listens,
        sum(milliseconds_listened::double precision) / 60000 as minutes_listened,
        min(day) as first_day,
        max(day) as last_day
    from marts.user_daily_hours
    group by user_id
    order by listens desc, user_id
    {_PAGE}
"""

OVERVIEW = f"""
    with tracks as materialized (
        select
            artist_id,
            sum(listens::integer) as listens,
            sum(milliseconds_listened::double precision) as milliseconds_listened,
            sum(listens_without_duration::integer) as listens_without_duration
        from marts.user_daily_tracks
        where {_IN_PERIOD}
        group by track_id, artist_id
    )

    select
        %(first)s::date as first_day,
        %(last)s::date as last_day,
        coalesce(sum(listens), 0)::bigint as listens,
        coalesce(sum(milliseconds_listened) / 60000, 0) as minutes_listened,
        coalesce(sum(listens_without_duration), 0)::bigint as listens_without_duration,
        count(*) as tracks,
        (select count(*) from (select artist_id from tracks group by artist_id) as artists) as artists,
        (
            select count(distinct artist_id)
            from marts.user_discoveries
            where
                first_day between %(first)s and %(last)s
                and (%(user)s::text is null or user_id = %(user)s::text)
        ) as new_artists,
        (select count(*) from marts.user_sessions where {_IN_PERIOD}) as sessions,
        (
            select count(*)
            from (select day from marts.user_daily_hours where {_IN_PERIOD} group by day) as days
        ) as days_with_listens
    from tracks
"""


def _ranked(entity: str, statement: str) -> str:
    return f"""
        select row_number() over (order by listens desc, minutes_listened desc, {entity}) + %(offset)s as rank, heard.*
        from (
            {statement}
            order by listens desc, minutes_listened desc, {entity}
            {_PAGE}
        ) as heard
    """


def _heard(entity: str) -> str:
    return _ranked(
        entity,
        f"""
        select
            {entity},
            sum(listens::integer) as listens,
            sum(milliseconds_listened::double precision) / 60000 as minutes_listened
        from marts.user_daily_tracks
        where {_IN_PERIOD}
        group by {entity}
        """,
    )


TOP_TRACKS = f"""
    select
        heard.rank,
        heard.track_id as id,
        coalesce(entities.canonical_name, tracks.track_name) as name,
        coalesce(artist_entities.canonical_name, artists.artist_name) as artist_name,
        heard.listens,
        heard.minutes_listened
    from ({_heard("track_id")}) as heard
    inner join marts.tracks as tracks using (track_id)
    inner join marts.artists as artists on artists.artist_id = tracks.canonical_artist_id
    left join {_ENTITIES} as entities on entities.kind = 'track' and entities.canonical_id = heard.track_id
    left join {_ENTITIES} as artist_entities
        on artist_entities.kind = 'artist' and artist_entities.canonical_id = tracks.canonical_artist_id
    order by heard.rank
"""

TOP_ARTISTS = f"""
    select
        heard.rank,
        heard.artist_id as id,
        coalesce(entities.canonical_name, artists.artist_name) as name,
        null as artist_name,
        heard.listens,
        heard.minutes_listened
    from ({_heard("artist_id")}) as heard
    inner join marts.artists as artists using (artist_id)
    left join {_ENTITIES} as entities on entities.kind = 'artist' and entities.canonical_id = heard.artist_id
    order by heard.rank
"""

_ALBUMS = f"""
    select
        artists.canonical_artist_id,
        heard.album,
        sum(heard.listens)::bigint as listens,
        sum(heard.milliseconds_listened) / 60000 as minutes_listened
    from (
        select
            artist_id,
            album,
            count(*) as listens,
            coalesce(sum(duration_ms::double precision), 0) as milliseconds_listened
        from marts.listen_events
        where album is not null and {_IN_PERIOD}
        group by artist_id, album
    ) as heard
    inner join marts.artists as artists using (artist_id)
    group by artists.canonical_artist_id, heard.album
"""

TOP_ALBUMS = f"""
    select
        heard.rank,
        null::uuid as id,
        heard.album as name,
        coalesce(entities.canonical_name, artists.artist_name) as artist_name,
        heard.listens,
        heard.minutes_listened
    from ({_ranked('album collate "C", canonical_artist_id', _ALBUMS)}) as heard
    inner join marts.artists as artists on artists.artist_id = heard.canonical_artist_id
    left join {_ENTITIES} as entities
        on entities.kind = 'artist' and entities.canonical_id = heard.canonical_artist_id
    order by heard.rank
"""

OVER_TIME = f"""
    with heard as (
        select
            date_trunc(%(bucket)s, day::timestamp) as bucket,
            sum(listens)::bigint as listens,
            sum(milliseconds_listened::double precision) / 60000 as minutes_listened
        from marts.user_daily_hours
        where {_IN_PERIOD}
        group by 1
    )

    select
        buckets.bucket::date as day,
        coalesce(heard.listens, 0) as listens,
        coalesce(heard.minutes_listened, 0) as minutes_listened
    from
        generate_series(
            date_trunc(%(bucket)s, %(first)s::timestamp),
            %(last)s::timestamp,
            ('1 ' || %(bucket)s)::interval
        ) as buckets (bucket)
    left join heard on heard.bucket = buckets.bucket
    order by buckets.bucket
"""

CLOCK = f"""
    select
        extract(isodow from day)::integer as weekday,
        hour,
        sum(listens)::bigint as listens,
        sum(milliseconds_listened::double precision) / 60000 as minutes_listened
    from marts.user_daily_hours
    where {_IN_PERIOD}
    group by 1, 2
    order by 1, 2
"""

DISCOVERIES = f"""
    select
        heard.artist_id,
        coalesce(entities.canonical_name, artists.artist_name) as name,
        heard.first_day,
        heard.listens
    from (
        select found.artist_id, min(found.first_day) as first_day, min(artists.listens) as listens
        from marts.user_discoveries as found
        inner join marts.artists as artists using (artist_id)
        where
            found.first_day between %(first)s and %(last)s
            and (%(user)s::text is null or found.user_id = %(user)s::text)
        group by found.artist_id
        order by first_day desc, listens desc, found.artist_id
        {_PAGE}
    ) as heard
    inner join marts.artists as artists using (artist_id)
    left join {_ENTITIES} as entities on entities.kind = 'artist' and entities.canonical_id = heard.artist_id
    order by heard.first_day desc, heard.listens desc, heard.artist_id
"""

_STREAKS = f"""
    select first_day, last_day, days
    from marts.user_streaks
    where user_id = %(user)s and last_day >= %(first)s and first_day <= %(last)s
    order by {{order}}, first_day desc
    {_PAGE}
"""
LONGEST_STREAKS = _STREAKS.format(order="days desc")
NEWEST_STREAKS = _STREAKS.format(order="last_day desc")

_SESSIONS = f"""
    select user_id, started_at, ended_at, day, listens, minutes_listened
    from marts.user_sessions
    where {_IN_PERIOD}
    order by {{order}}, started_at desc, user_id
    {_PAGE}
"""
LONGEST_SESSIONS = _SESSIONS.format(order="ended_at - started_at desc, listens desc")
NEWEST_SESSIONS = _SESSIONS.format(order="started_at desc")

TRENDING = f"""
    select window_start, window_end, rank, previous_rank, id, name, artist_name, listens, listeners, score
    from marts.trending
    where kind = %(kind)s
    order by rank
    {_PAGE}
"""

TRENDING_HISTORY = """
    select id, window_start, listeners
    from marts.trending_history
    where kind = %(kind)s and id = any(%(ids)s) and window_start = any(%(starts)s)
"""
