"""Checks of the data that no dbt test makes: what was read beside what ListenBrainz reports, and odd counts.

Each check returns findings, a line each, for a person; none means that all is well.
"""

from __future__ import annotations

from collections.abc import Sequence

from music_pulse.database import connect
from music_pulse.errors import QualityError
from music_pulse.settings import Settings

GAP_LISTENS, GAP_SHARE = 10, 0.001
"""What counts may differ by: ListenBrainz' own is off by a few for some users (docs/reconciliation.md)."""

QUIET_SHARE, FLOOD_FACTOR = 0.1, 10
"""A day with less than this share of what is usual, or more than so many times as much, is odd."""

_USUAL_DAYS = 28
_ENOUGH_LISTENS = 20
"""Listens a day, usually, from which on a day without any is odd."""

_COUNTS = """
with
days as (
    select cast(day as date) as day
    from generate_series(
        (select max(day) from marts.listen_events) - %(days)s, (select max(day) from marts.listen_events), '1 day'
    ) as day
),
counts as (
    select users.user_id, days.day, coalesce(sum(listens.listens), 0) as listens
    from (select distinct user_id from marts.user_daily_tracks) as users
    cross join days
    left join marts.user_daily_tracks as listens on listens.user_id = users.user_id and listens.day = days.day
    group by users.user_id, days.day
),
judged as (
    select
        counts.*,
        percentile_cont(0.5) within group (order by before.listens) as usual
    from counts
    inner join counts as before on before.user_id = counts.user_id and before.day < counts.day
    -- The newest day may still be going on.
    where counts.day = (select max(day) from days) - 1
    group by counts.user_id, counts.day, counts.listens
)
select user_id, day, listens, usual
from judged
where usual >= %(enough)s and (listens < usual * %(share)s or listens > usual * %(factor)s)
order by user_id
"""


def are_built(settings: Settings) -> bool:
    """Tell whether the marts stand."""
    with connect(settings.credentials("reader"), autocommit=True) as connection:
        return connection.execute("select to_regclass('marts.trending_recomputed')").fetchone() != (None,)


def raise_for(findings: Sequence[str]) -> None:
    """Raise `QualityError` where something was found."""
    if findings:
        more = f" (and {len(findings) - 3} more)" if len(findings) > 3 else ""
        raise QualityError("; ".join(findings[:3]) + more)


def reconciliation_gaps(settings: Settings) -> list[str]:
    """Return the users of whom notably more or fewer listens are held than ListenBrainz reported last."""
    with connect(settings.credentials("reader"), autocommit=True) as connection:
        rows = connection.execute(
            """
            select user_id, reported, held, difference
            from marts.reconciliation
            where abs(difference) > greatest(%s, reported * %s)
            order by user_id
            """,
            [GAP_LISTENS, GAP_SHARE],
        ).fetchall()
    return [
        f"{user}: ListenBrainz reports {reported:,} listens, {held:,} are held (difference {difference:+,})"
        for user, reported, held, difference in rows
    ]


def odd_counts(settings: Settings) -> list[str]:
    """Return the users whose last whole day has far fewer or more listens than their median day of four weeks."""
    with connect(settings.credentials("reader"), autocommit=True) as connection:
        rows = connection.execute(
            _COUNTS,
            {"days": _USUAL_DAYS + 1, "enough": _ENOUGH_LISTENS, "share": QUIET_SHARE, "factor": FLOOD_FACTOR},
        ).fetchall()
    return [f"{user}: {listens:,} listens on {day}, {usual:,.0f} are usual" for user, day, listens, usual in rows]
