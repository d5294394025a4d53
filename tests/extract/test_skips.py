from __future__ import annotations

import pyarrow as pa
import pytest
from helpers import query

from extract.skips import IS_SKIP, count_skips
from music_pulse.settings import Settings

PLAYS = [
    (29_999, None, True),
    (30_000, None, False),
    (20_000, 40_000, False),
    (20_000, 40_001, True),
    (0, 0, False),
    (None, 10, False),
    (None, None, False),
]


@pytest.mark.parametrize(("played_ms", "duration_ms", "is_skip"), PLAYS)
def test_a_skip_was_hardly_played(played_ms: int | None, duration_ms: int | None, is_skip: bool) -> None:
    columns = {"played_ms": pa.array([played_ms], pa.int64()), "duration_ms": pa.array([duration_ms], pa.int64())}
    assert count_skips(pa.table(columns), 30_000) == is_skip


def test_sql_has_the_same_rule(warehouse: Settings) -> None:
    rows = ", ".join(f"({_sql(played)}, {_sql(duration)})" for played, duration, _ in PLAYS)
    statement = f"select ({IS_SKIP}) is true from (values {rows}) as plays (played_ms, duration_ms)"
    found = query(warehouse, statement, {"least_played_ms": 30_000})
    assert [is_skip for (is_skip,) in found] == [is_skip for *_, is_skip in PLAYS]


def _sql(milliseconds: int | None) -> str:
    return "null::bigint" if milliseconds is None else f"{milliseconds}::bigint"
