"""Events -> trending counts: pure functions of DataFrames, the same on a stream and on a static frame.

records (value, timestamp) -> parsed -> counted -> recent_listens -> window_changes

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


def left_out_counts(events: DataFrame) -> DataFrame:
    """Observe how many events a batch leaves out, by reason, as metric `left_out`."""
    return events.observe(
        "left_out",
        *(F.count_if(F.col("left_out") == reason).alias(reason) for reason in (MALFORMED, CLOCK_AHEAD)),
    )


def counted(events: DataFrame) -> DataFrame:
    """Keep what counts, and of it the columns that the state holds."""
    return events.where(F.col("left_out").isNull()).select(
        "event_time", "listened_at", "user_key", "track_id", "artist_id", "artist_name", "track_name"
    )


def recent_listens(listens: DataFrame, rules: TrendingRules) -> DataFrame:
    """Collect each user's listens by blocks of windows; the stateful step.

    A row a (block, user) that something came for: block_start, user_key, batch, and listens with the batch in which
    each came (an array; a listen that came in several batches stands there several times). A block holds all listens
    of `rules.block_slides` consecutive windows, so each window is counted from one block. A batch is known by its
    time, which a repeated batch keeps.
    """
    slide, window = rules.slide_minutes, rules.window_minutes
    step = rules.block_slides * slide
    block = F.window("event_time", f"{step - slide + window} minutes", f"{step} minutes")
    batch = F.unix_millis(F.current_timestamp())
    listen = F.struct("listened_at", "track_id", "artist_id", "artist_name", "track_name", "batch")
    return (
        listens.withWatermark("event_time", f"{rules.watermark_minutes} minutes")
        .withColumn("batch", batch)
        .groupBy(block.alias("block"), "user_key")
        .agg(F.collect_set(listen).alias("listens"))
        .select(
            F.unix_seconds("block.start").alias("block_start"),
            "user_key",
            "listens",
            batch.alias("batch"),
        )
    )


def window_changes(blocks: DataFrame, rules: TrendingRules) -> DataFrame:
    """Count what this batch adds to each window.

    A row a (window_start, kind, id) that a new listen falls into: artist_name, track_name, listens and listeners to
    add; and a row of kind `minute` for each minute that new listens began in: how many (listens), and the latest
    (newest, seconds). Times are seconds since 1970. On a static frame everything is new, so it counts the windows.
    """
    listens = _each_once(blocks)
    return _changes(listens, rules).unionByName(_minutes(listens, rules))


def _each_once(blocks: DataFrame) -> DataFrame:
    return (
        blocks.select("block_start", "user_key", "batch", F.explode("listens").alias("listen"))
        .groupBy("block_start", "user_key", "listen.listened_at", "listen.track_id")
        .agg(
            (F.min("listen.batch") == F.first("batch")).alias("is_new"),
            F.first("listen.artist_id").alias("artist_id"),
            F.min("listen.artist_name").alias("artist_name"),
            F.min("listen.track_name").alias("track_name"),
        )
    )


def _changes(listens: DataFrame, rules: TrendingRules) -> DataFrame:
    entity = F.explode(
        F.array(
            F.struct(F.lit("track").alias("kind"), F.col("track_id").alias("id"), F.col("track_name")),
            F.struct(F.lit("artist").alias("kind"), F.col("artist_id").alias("id"), F.lit(None).alias("track_name")),
        )
    )
    by_user = (
        listens.select("*", F.explode(_window_starts(rules)).alias("window_start"))
        .select("window_start", "user_key", "is_new", "artist_name", entity.alias("entity"))
        .groupBy("window_start", "entity.kind", "entity.id", "user_key")
        .agg(
            F.count("*").alias("held"),
            F.count_if("is_new").alias("new"),
            F.min("artist_name").alias("artist_name"),
            F.min("entity.track_name").alias("track_name"),
        )
        .where(F.col("new") > 0)
    )
    cap = F.lit(rules.listens_per_user)
    added = F.least("held", cap) - F.least(F.col("held") - F.col("new"), cap)
    return by_user.groupBy("window_start", "kind", "id").agg(
        F.min("artist_name").alias("artist_name"),
        F.min("track_name").alias("track_name"),
        F.sum(added).alias("listens"),
        F.count_if(F.col("held") == F.col("new")).alias("listeners"),
        F.lit(None).cast("long").alias("newest"),
    )


def _window_starts(rules: TrendingRules) -> Column:
    """The windows of a listen that are counted from this block."""
    slide = rules.slide_minutes * 60
    last = F.floor(F.col("listened_at") / slide) * slide
    first = last - rules.window_minutes * 60 + slide
    end = F.col("block_start") + rules.block_slides * slide
    starts = F.sequence(F.greatest(first, F.col("block_start")), F.least(last, end - slide), F.lit(slide))
    return F.when(F.greatest(first, F.col("block_start")) <= F.least(last, end - slide), starts).otherwise(
        F.array().cast("array<bigint>")
    )


def _minutes(listens: DataFrame, rules: TrendingRules) -> DataFrame:
    """A listen stands in up to two blocks, and began in one of them."""
    step = rules.block_slides * rules.slide_minutes * 60
    began_here = F.col("listened_at") < F.col("block_start") + step
    return (
        listens.where(F.col("is_new") & began_here)
        .groupBy((F.floor(F.col("listened_at") / 60) * 60).alias("window_start"))
        .agg(F.count("*").alias("listens"), F.max("listened_at").alias("newest"))
        .select(
            "window_start",
            F.lit("minute").alias("kind"),
            F.lit(None).cast("string").alias("id"),
            F.lit(None).cast("string").alias("artist_name"),
            F.lit(None).cast("string").alias("track_name"),
            "listens",
            F.lit(0).cast("long").alias("listeners"),
            "newest",
        )
    )
