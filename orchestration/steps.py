"""What the tasks do: each opens the warehouse and calls one function of the command's. Nothing heavy at the top."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any

from airflow.sdk import Variable, get_current_context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from music_pulse.settings import load_settings
from orchestration.rules import warehouse

logger = logging.getLogger(__name__)

USERS_VARIABLE = "music_pulse_users"


def users() -> list[str]:
    """Finish erasures that were interrupted, then say whom to read."""
    from music_pulse import run

    with warehouse() as settings:
        run.finish_erasures(settings)
    named = Variable.get(USERS_VARIABLE, default=None, deserialize_json=True)
    return list(dict.fromkeys(named or [settings.listenbrainz_user]))


def extract(name: str) -> int:
    """Land what is new of a user, or in a backfill what the run's interval holds; return the number of listens."""
    from music_pulse import run

    interval = _backfilled_interval()
    if interval is not None:
        return rescan(name, *interval)
    with warehouse() as settings:
        return run.land_listenbrainz(settings, [name], None).listens


def reconcile(name: str) -> None:
    """Compare with ListenBrainz what is held of a user; a backfill has done so for its interval."""
    from music_pulse import run

    if _backfilled_interval() is None:
        with warehouse() as settings:
            run.raise_unless_reconciled(run.reconcile(settings, [name]))


def rescan(name: str, start: float, end: float) -> int:
    """Read [start, end) of a user again, in seconds since 1970; return the number of listens that were missing."""
    from music_pulse import run

    with warehouse() as settings:
        done = run.rescan(settings, [name], int(start), int(end))
        run.raise_unless_reconciled(done)
    return sum(user.landed.listens for user in done)


def enrich() -> None:
    """Ask for metadata of recordings; what fails is a warning."""
    from music_pulse import run

    with warehouse() as settings:
        run.enrich_run(settings)


def export() -> str:
    """Write the Parquet snapshot."""
    from music_pulse import run

    with warehouse() as settings:
        return run.export_line(run.export(settings))


def freshness() -> None:
    """Fail where a source has got nothing for too long."""
    from music_pulse import transform

    with warehouse() as settings:
        transform.check_freshness(settings)


def verdict() -> None:
    """Fail a run in which somebody could not be read, though the rest goes on: a failed last task fails it anyhow."""
    raise AirflowFailException("not all could be read: see the alerts, and docs/runbook.md")


def pieces() -> list[dict[str, Any]]:
    """Cut the days that the run's parameters name."""
    params = get_current_context()["params"]
    first, last = (date.fromisoformat(params[name]) for name in ("from_day", "to_day"))
    if last < first:
        raise AirflowFailException(f"from_day {first} is after to_day {last}")
    return months(params["users"] or [load_settings().listenbrainz_user], first, last)


def months(names: Sequence[str], first: date, last: date) -> list[dict[str, Any]]:
    """Cut days (both included, UTC) into a piece a user and month, newest month first: [{name, start, end}]."""
    cut = []
    end = last + timedelta(days=1)
    while end > first:
        start = max(first, (end - timedelta(days=1)).replace(day=1))
        cut += [{"name": name, "start": _midnight(start), "end": _midnight(end)} for name in names]
        end = start
    return cut


def refresh_trending() -> None:
    """Build `trending_recomputed`, and test it and the live view, once the marts stand."""
    from music_pulse import quality, transform

    with warehouse() as settings:
        if not quality.are_built(settings):
            raise AirflowSkipException("the marts aren't built yet: music_pulse_daily does it")
        transform.build(settings, select=transform.TRENDING)


def reconciliation() -> None:
    """Fail where more or less is held than ListenBrainz reports."""
    from music_pulse import quality

    with warehouse() as settings:
        quality.raise_for(quality.reconciliation_gaps(settings))


def row_counts() -> None:
    """Fail where a user's last whole day has far fewer or more listens than usual."""
    from music_pulse import quality

    with warehouse() as settings:
        quality.raise_for(quality.odd_counts(settings))


def all_tests() -> dict[str, int]:
    """Ask every dbt test of all rows; return how many ended how."""
    from music_pulse import transform

    with warehouse() as settings:
        transform.run_tests(settings)
        return transform.results(settings)


def docs() -> str:
    """Build the dbt docs."""
    from music_pulse import run

    with warehouse() as settings:
        return str(run.build_docs(settings))


def shorten_quarantine(days: int) -> int:
    """Blank the text of records that were refused long ago."""
    from music_pulse import maintenance

    with warehouse() as settings:
        return maintenance.shorten_quarantine(settings, days)


def drop_old_windows(days: int) -> int:
    """Drop trending windows that stand in Parquet."""
    from music_pulse import maintenance

    with warehouse() as settings:
        return maintenance.drop_old_windows(settings, days)


def drop_old_snapshots() -> int:
    """Remove what interrupted exports left."""
    from music_pulse import maintenance

    with warehouse() as settings:
        return maintenance.drop_old_snapshots(settings)


def vacuum() -> int:
    """Vacuum and analyze; return how many tables."""
    from music_pulse import maintenance, transform

    with warehouse() as settings, transform.one_build(settings):
        return len(maintenance.vacuum(settings))


def _backfilled_interval() -> tuple[float, float] | None:
    """Return the run's data interval in seconds since 1970, if `airflow backfill` made the run."""
    run = get_current_context()["dag_run"]
    start, end = run.data_interval_start, run.data_interval_end
    if run.run_type != "backfill" or start is None or end is None:
        return None
    return start.timestamp(), end.timestamp()


def _midnight(day: date) -> float:
    return datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()
