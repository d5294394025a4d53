with

listens as (

    select * from {{ ref('int_listens_deduplicated') }}

),

repeats as (

    select
        repeated.listen_id,
        repeated.near_duplicate_of,
        repeated.user_id,
        repeated.listened_at as played_at_ts,
        kept.listened_at as kept_played_at_ts,
        repeated.track_name as track,
        repeated.artist_name as artist,
        repeated.track_id,
        repeated.source,
        repeated.submission_client,
        repeated.origin,
        kept.source as kept_source,
        kept.submission_client as kept_submission_client,
        kept.origin as kept_origin,
        cast(
            extract(epoch from repeated.listened_at - kept.listened_at) as bigint
        ) as seconds_apart
    from listens as repeated
    inner join listens as kept on repeated.near_duplicate_of = kept.listen_id
    where repeated.near_duplicate_of is not null

),

explained as (

    select
        repeats.*,
        'starts ' || repeats.seconds_apart || ' s after the same track from '
        || {{ origin_in_words('repeats.kept_') }}
        || '; this one is from '
        || {{ origin_in_words('repeats.') }}
            as reason
    from repeats

)

select * from explained
