"""What is hardly played is a skip: the rule of the dbt macro `is_skip`, for those who ask raw itself."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from music_pulse.settings import Settings

MIN_PLAY_SECONDS = 30
"""As the dbt var of that name is by default."""

IS_SKIP = "played_ms < %(least_played_ms)s and (duration_ms is null or 2 * played_ms < duration_ms)"
"""SQL condition on a row of raw.listens; null where nothing is known."""


def least_played_ms(settings: Settings) -> float:
    """Return for how long a listen must have been played, in milliseconds: the parameter of `IS_SKIP`."""
    return float(settings.dbt_vars.get("min_play_seconds", MIN_PLAY_SECONDS)) * 1000


def count_skips(listens: pa.Table, least_played_ms: float) -> int:
    """Count the rows that `IS_SKIP` will find; of a table that is not landed yet."""
    played, duration = listens["played_ms"], listens["duration_ms"]
    is_less_than_half = pc.fill_null(pc.less(pc.multiply(played, 2), duration), True)
    return pc.sum(pc.and_(pc.less(played, least_played_ms), is_less_than_half)).as_py() or 0
