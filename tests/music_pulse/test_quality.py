"""What the checks find, on marts made by hand: only the columns that they read."""

from __future__ import annotations

import pytest
from helpers import execute

from music_pulse import quality
from music_pulse.errors import QualityError
from music_pulse.settings import Settings

_MARTS = """
create table marts.listen_events (day date);
create table marts.user_daily_tracks (user_id text, day date, listens bigint);
create table marts.reconciliation (user_id text, reported bigint, held bigint, difference bigint);
insert into marts.listen_events values ('2026-11-20');
insert into marts.reconciliation values
    ('ann', 1000, 1000, 0), ('bob', 1000, 990, 10), ('cy', 1000, 900, 100), ('dora', 1000000, 999100, 900),
    ('eve', null, 5, null);
insert into marts.user_daily_tracks
    select users.user_id, cast(days.day as date), users.listens
    from (values ('flood', 30), ('quiet', 30), ('usual', 30), ('rare', 2)) as users (user_id, listens)
    cross join generate_series(date '2026-10-20', date '2026-11-18', interval '1 day') as days (day);
insert into marts.user_daily_tracks values
    ('flood', '2026-11-19', 301), ('rare', '2026-11-19', 90),
    ('quiet', '2026-11-19', 2), ('usual', '2026-11-19', 9), ('quiet', '2026-11-20', 0);
grant select on all tables in schema marts to public;
"""


@pytest.fixture
def marts(warehouse: Settings) -> Settings:
    assert not quality.are_built(warehouse)
    execute(warehouse, _MARTS)
    return warehouse


def test_gaps_and_odd_days_are_found(marts: Settings) -> None:
    assert quality.reconciliation_gaps(marts) == [
        "cy: ListenBrainz reports 1,000 listens, 900 are held (difference +100)"
    ]
    assert quality.odd_counts(marts) == [
        "flood: 301 listens on 2026-11-19, 30 are usual",
        "quiet: 2 listens on 2026-11-19, 30 are usual",
    ]


def test_findings_fail_a_task_in_one_line() -> None:
    quality.raise_for([])
    with pytest.raises(QualityError, match=r"^a; b; c \(and 1 more\)$"):
        quality.raise_for(["a", "b", "c", "d"])
