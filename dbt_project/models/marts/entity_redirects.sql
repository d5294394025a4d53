with

redirects as (

    select *
    from {{ ref('int_redirects') }}
    where is_current

),

members as (

    select
        kind,
        id,
        canonical_id
    from redirects
    union
    select
        kind,
        canonical_id as id,
        canonical_id
    from redirects

),

named as (

    select
        members.kind,
        members.id,
        members.canonical_id,
        coalesce(tracks.track_name, artists.artist_name) as name,
        coalesce(tracks.listens, artists.listens) as listens
    from members
    left join {{ ref('tracks') }} as tracks
        on members.kind = 'track' and members.id = tracks.track_id
    left join {{ ref('artists') }} as artists
        on members.kind = 'artist' and members.id = artists.artist_id

),

leaders as (

    {{ most_frequent('named', 'kind, canonical_id', 'name') }}

),

explained as (

    select
        redirects.kind,
        redirects.id,
        redirects.canonical_id,
        redirects.reason,
        named.name,
        leaders.name as canonical_name
    from redirects
    inner join named
        on redirects.kind = named.kind and redirects.id = named.id
    inner join leaders
        on
            redirects.kind = leaders.kind
            and redirects.canonical_id = leaders.canonical_id

)

select * from explained
