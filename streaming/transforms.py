"""Events -> trending counts: pure functions of DataFrames, the same on a stream and on a static frame.

records (value, timestamp) -> parsed (-> without_blocked) -> counted -> recent_listens -> window_changes

Of a few listens the last step is `Changes.of_few`, without Spark.

Exact counts of distinct listeners, each listen once and no more than so many of one user, with the one stateful
operator that Spark allows in update mode: `recent_listens` keeps what each user heard lately, with the batch in which
it came first. What a listen adds to its windows then depends on its user's other listens alone: it is the user's first
there, or one more, or beyond the cap. So the cost of a batch is that of its users' recent listens, however hot a
track is, and no set of all its listeners is ever written.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql import types as T  # noqa: N812

from music_pulse.blocklist import Blocklist
from music_pulse.listens import MIN_LISTENED_AT
from streaming.events import VERSION
from streaming.trending_rules import TrendingRules

NEEDED = T.StructType(
    [
        T.StructField("version", T.IntegerType()),
        T.StructField("track_id", T.StringType()),
        T.StructField("artist_id", T.StringType()),
        T.StructField("user_key", T.StringType()),
        T.StructField("listened_at", T.LongType()),
        T.StructField(
            "track_metadata",
            T.StructType([T.StructField("artist_name", T.StringType()), T.StructField("track_name", T.StringType())]),
        ),
    ]
)
"""What trending reads of an event; the parser skips the rest."""

MALFORMED = "malformed"
CLOCK_AHEAD = "clock ahead"
BLOCKED = "blocked"
OLDEST = "oldest"
"""Of the metric `left_out`: when the broker got the batch's oldest event, in ms since 1970."""

TRACK, ARTIST = "track", "artist"
"""The kinds of entities."""

_UUID = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"


def parsed(records: DataFrame, rules: TrendingRules) -> DataFrame:
    """Read JSON events; a row a record, with the reason why it doesn't count (null: it does).

    `records` has value (binary or text) and timestamp (when the broker got it). Adds what `NEEDED` names, flat,
    event_time and left_out.
    """
    event = F.from_json(F.col("value").cast("string"), NEEDED)
    flat = records.withColumn("event", event).select(
        *(name for name in records.columns if name != "value"),
        "event.version",
        "event.track_id",
        "event.artist_id",
        "event.user_key",
        "event.listened_at",
        "event.track_metadata.artist_name",
        "event.track_metadata.track_name",
    )
    is_whole = (
        (F.col("version") == VERSION)
        & (F.col("listened_at") >= MIN_LISTENED_AT)
        & (F.length("user_key") > 0)
        & _is_name("artist_name")
        & _is_name("track_name")
        & F.col("track_id").rlike(_UUID)
        & F.col("artist_id").rlike(_UUID)
    )
    event_time = F.timestamp_seconds("listened_at")
    is_ahead = event_time > F.col("timestamp") + F.expr(f"interval {rules.clock_ahead_seconds} seconds")
    reason = F.when(~F.coalesce(is_whole, F.lit(False)), MALFORMED).when(is_ahead, CLOCK_AHEAD).otherwise(F.lit(None))
    return flat.withColumn("event_time", event_time).withColumn("left_out", reason).drop("version")


def _is_name(column: str) -> Column:
    """Not blank, and no NUL, which Postgres can't store."""
    return F.col(column).rlike(r"(?U)\S") & ~F.contains(column, F.lit("\0"))


def without_blocked(events: DataFrame, blocklist: Blocklist) -> DataFrame:
    """Leave out the listens of people on the list; an empty one adds nothing to the plan.

    HMAC (RFC 2104) by Spark's own functions, since a key goes into it and no row should pass through Python.
    """
    if not blocklist:
        return events
    padded = blocklist.secret.ljust(64, b"\0")
    inner, outer = (F.lit(bytearray(byte ^ pad for byte in padded)) for pad in (0x36, 0x5C))
    digest = F.unhex(F.sha2(F.concat(inner, F.encode("user_key", "UTF-8")), 256))
    is_blocked = F.sha2(F.concat(outer, digest), 256).isin(*sorted(blocklist.hashes))
    reason = F.when(F.col("left_out").isNull() & is_blocked, BLOCKED).otherwise(F.col("left_out"))
    return events.withColumn("left_out", reason)


def left_out_counts(events: DataFrame) -> DataFrame:
    """Observe how many events a batch leaves out, by reason, as metric `left_out`; and its oldest broker time."""
    return events.observe(
        "left_out",
        *(F.count_if(F.col("left_out") == reason).alias(reason) for reason in (MALFORMED, CLOCK_AHEAD)),
        F.unix_millis(F.min("timestamp")).alias(OLDEST),
    )


def counted(events: DataFrame) -> DataFrame:
    """Keep what counts, and of it the columns that the state holds."""
    return events.where(F.col("left_out").isNull()).select(
        "event_time", "listened_at", "user_key", "track_id", "artist_id", "artist_name", "track_name"
    )


def recent_listens(listens: DataFrame, rules: TrendingRules) -> DataFrame:
    """Collect each user's listens by blocks of windows, and tell those that count anew; the stateful step.

    The state is a row a (block, user), with the listens and the batch in which each came (a listen that came in several
    batches stands there several times). A block holds all listens of `rules.block_slides` consecutive windows, so each
    window is counted from one block.

    A row a listen that came (is_new), or that stands beside such a one of the same artist; in which windows of the
    block it counts (window_start to last_start, seconds since 1970), and whether there may be another one of its track
    or its artist (is_track_again, is_artist_again).
    """
    slide, window = rules.slide_minutes, rules.window_minutes
    step = rules.block_slides * slide
    block = F.window("event_time", f"{step - slide + window} minutes", f"{step} minutes")
    # A batch is known by its time, which a repeated batch keeps. As a decimal, and within a function of an array, which
    # Spark interprets: else it is a number in the code that Spark generates, which is compiled again for every batch.
    batch = F.transform(F.array(F.current_timestamp()), lambda time: F.unix_millis(time).cast("decimal(15)"))[0]
    listen = F.struct("listened_at", "track_id", "artist_id", "artist_name", "track_name", "batch")
    blocks = (
        listens.withWatermark("event_time", f"{rules.watermark_minutes} minutes")
        # Every row of state is read with each batch: it is kept short.
        .withColumns({name: F.unhex(F.replace(name, F.lit("-"))) for name in ("track_id", "artist_id")})
        .withColumn("batch", batch)
        .groupBy(block.alias("block"), "user_key")
        .agg(F.collect_set(listen).alias("listens"))
        .select("block", "user_key", "listens", batch.alias("batch"))
    )
    return listens.sparkSession.sql(_CONCERNED.format(**_numbers(rules), blocks="{blocks}"), blocks=blocks)


def window_changes(listens: DataFrame, rules: TrendingRules) -> DataFrame:
    """Count what a batch of `recent_listens` adds to each window.

    Rows of (window_start, windows, kind, id, listens, listeners, came, newest, artist_id, artist_name, track_name), by
    kind; `Changes` makes one row a window and entity of them:

    * `track`, `artist`: listens and listeners to add to each of so many consecutive `windows`, from `window_start` on;
    * `track`, `slide`: how many new listens began in the slide that begins the last of the windows (came; null: that is
      told elsewhere), and the latest of them (newest);
    * `name`: nothing that is to be added.

    Rows of tracks and names may tell a spelling that came in the last slide, by artist_id, artist_name and track_name.

    Times are seconds since 1970, ids 16 bytes. On a static frame everything is new, so it counts the windows.
    """
    # Read more than once, but the state behind it must be worked out once.
    concerned = listens.localCheckpoint(eager=False)
    query = _WINDOW_CHANGES.format(**_numbers(rules), concerned="{concerned}")
    return listens.sparkSession.sql(query, concerned=concerned)


def _numbers(rules: TrendingRules) -> dict[str, int]:
    slide = rules.slide_minutes * 60
    return {
        "slide": slide,
        "to_first": rules.window_minutes * 60 - slide,
        "to_last": (rules.block_slides - 1) * slide,
        "cap": rules.listens_per_user,
        "few": _FEW,
    }


_FEW = 200
"""So many listens of a user are compared each with each; more would cost more than it saves."""

# As SQL, a step is analysed once and not once a line.
_CONCERNED = """
with

listens as (

    select
        block, user_key, batch, listens,
        unix_seconds(block.start) as first_start,
        size(listens) > {few} as are_many,
        explode(listens) as listen
    from {blocks}

),

-- Of a user's other artists nothing changes.
concerned as (

    select
        *,
        listen.batch = batch as is_new,
        listen.listened_at - pmod(listen.listened_at, {slide}) as slide
    from listens
    where
        listen.batch = batch
        or are_many
        or exists(listens, other -> other.artist_id = listen.artist_id and other.batch = batch)

),

-- Of the windows of a listen, those that are counted from this block.
ranges as (

    select
        *,
        greatest(slide - {to_first}, first_start) as window_start,
        least(slide, first_start + {to_last}) as last_start
    from concerned

)

select
    block, user_key, is_new, slide, window_start, last_start,
    listen.listened_at, listen.track_id, listen.artist_id,
    if(is_new, listen.artist_name, null) as artist_name,
    if(is_new, listen.track_name, null) as track_name,
    -- Whether it may be that the user has another one of the track, or of the artist.
    are_many
    or exists(listens, other -> other.track_id = listen.track_id and other <> listen) as is_track_again,
    not is_new
    or are_many
    or exists(listens, other -> other.artist_id = listen.artist_id and other <> listen) as is_artist_again
from ranges
where window_start <= last_start
"""

# Most listens are their user's only one of a track, or of an artist: they are counted by slides, as one row for all
# windows of it, and the others window by window. Grouped first by what the state is partitioned by, so that little is
# shuffled; and texts are grouped by, not aggregated, since Spark would sort for that.
_WINDOW_CHANGES = """
with

concerned as (

    select * from {concerned}

),

new as (

    select
        slide, window_start, last_start, listened_at, track_id, artist_id, is_track_again, is_artist_again,
        -- Told from one block: that of the last window.
        if(last_start = slide, struct(artist_id, artist_name, track_name), null) as spelling
    from concerned
    where is_new

),

only_ones as (

    select
        slide, window_start, last_start, listened_at,
        explode(
            array(
                if(
                    is_track_again and spelling is null,
                    null,
                    struct(if(is_track_again, 'name', 'track') as kind, track_id as id, spelling)
                ),
                if(is_artist_again, null, struct('artist' as kind, artist_id as id, null as spelling))
            )
        ) as entity
    from new

),

by_range as (

    select
        slide, window_start, last_start, entity.kind, entity.id,
        entity.spelling.artist_id, entity.spelling.artist_name, entity.spelling.track_name,
        count(*) as listens,
        max(listened_at) as newest
    from only_ones
    where entity is not null
    group by
        slide, window_start, last_start, entity.kind, entity.id,
        entity.spelling.artist_id, entity.spelling.artist_name, entity.spelling.track_name

),

each_once as (

    select
        block, user_key, slide, window_start, last_start, listened_at, track_id, artist_id, is_track_again,
        bool_and(is_new) as is_new
    from concerned
    where is_artist_again
    group by
        block, user_key, slide, window_start, last_start, listened_at, track_id, artist_id, is_track_again

),

in_windows as (

    select
        block, user_key, slide, listened_at, track_id, artist_id, is_track_again, is_new,
        explode(sequence(window_start, last_start, {slide}L)) as window_start
    from each_once

),

counted as (

    select
        block, user_key, is_new, listened_at, window_start,
        explode(
            array(
                if(is_track_again, struct('track' as kind, track_id as id), null),
                struct('artist' as kind, artist_id as id),
                if(
                    is_track_again and window_start = slide,
                    struct('slide' as kind, cast(null as binary) as id),
                    null
                )
            )
        ) as entity
    from in_windows

),

by_user as (

    select
        block, user_key, window_start, entity.kind, entity.id,
        count(*) as held,
        count_if(is_new) as new,
        max(if(is_new, listened_at, null)) as newest
    from counted
    where entity is not null
    group by block, user_key, window_start, entity.kind, entity.id

),

by_window as (

    select
        window_start, kind, id,
        sum(least(held, {cap}) - least(held - new, {cap})) as listens,
        count_if(held = new) as listeners,
        sum(new) as came,
        max(newest) as newest
    from by_user
    where new > 0
    group by window_start, kind, id

)

select
    window_start, (last_start - window_start) div {slide} + 1 as windows, kind, id, listens, listens as listeners,
    if(kind = 'track' and artist_id is not null, listens, null) as came,
    if(kind = 'track' and artist_id is not null, newest, null) as newest,
    artist_id, artist_name, track_name
from by_range
union all
select
    window_start, 1, kind, id, listens, listeners, if(kind = 'slide', came, null), if(kind = 'slide', newest, null),
    null, null, null
from by_window
"""
