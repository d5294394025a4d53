with

tracks as (

    select
        tracks.track_id,
        coalesce(tracks.recording_mbid, mapped.recording_mbid) as recording_mbid
    from {{ ref('tracks') }} as tracks
    left join {{ ref('int_track_recordings') }} as mapped
        on tracks.track_id = mapped.track_id

),

named as (

    select
        tracks.track_id,
        genres.genre,
        cast(genres.place as integer) as place
    from tracks
    inner join {{ ref('int_recordings') }} as recordings
        on tracks.recording_mbid = recordings.recording_mbid
    cross join lateral jsonb_array_elements_text(
        cast(recordings.genres as jsonb)
    ) with ordinality as genres (genre, place)

)

select * from named
