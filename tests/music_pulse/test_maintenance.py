"""What housekeeping lets go, and what stays."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from helpers import MakeWarehouse, execute, query

from extract.listenbrainz.held import HeldListens
from music_pulse import maintenance
from music_pulse.database import connect
from music_pulse.settings import Settings

SECOND = 1_600_000_000


@pytest.fixture
def settings(make_warehouse: MakeWarehouse, tmp_path: Path) -> Settings:
    return make_warehouse(archive_dir=tmp_path / "stream", export_dir=str(tmp_path / "warehouse"))


def refuse(settings: Settings, digest: int, payload: str, days_ago: int) -> None:
    execute(
        settings,
        "insert into raw.quarantine values ('listenbrainz', null, null, 'ann', 'no track', %s,"
        " %s, now() - make_interval(days => %s), 'load')",
        [payload, UUID(int=digest), days_ago],
    )


def test_old_refused_records_keep_what_reconciliation_counts_by(settings: Settings) -> None:
    private = {"listened_at": SECOND, "track_metadata": {"artist_name": "A secret" * 20}}
    refuse(settings, 1, json.dumps(private), 91)
    refuse(settings, 2, "not JSON, " * 20, 91)
    refuse(settings, 3, json.dumps(private), 89)
    with connect(settings.credentials("loader"), autocommit=True) as connection:
        before = HeldListens(connection, "ann").refused
        assert maintenance.shorten_quarantine(settings, 90) == 2
        assert HeldListens(connection, "ann").refused == before
    payloads = [payload for (payload,) in query(settings, "select payload from raw.quarantine order by payload_hash")]
    assert payloads == [json.dumps({"listened_at": SECOND}), "", json.dumps(private)]
    assert maintenance.shorten_quarantine(settings, 90) == 0


def test_old_windows_leave_once_they_stand_in_parquet(settings: Settings) -> None:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for days in (40, 35, 3):
        start = today - timedelta(days=days)
        execute(
            settings,
            "insert into raw.trending_windows values (%s, %s, 'track', gen_random_uuid(), 'Can', 'Spoon', 1, 1, now())",
            [start, start + timedelta(minutes=5)],
        )
    assert maintenance.drop_old_windows(settings, 30) == 0  # no query says that the days are over
    execute(
        settings,
        "insert into raw.trending_ledger values (gen_random_uuid(), 1, %s, null, now())",
        [today - timedelta(days=38)],
    )
    assert maintenance.drop_old_windows(settings, 30) == 1
    [(oldest, count)] = query(settings, "select min(window_start), count(*) from raw.trending_windows")
    assert (oldest, count) == (today - timedelta(days=35), 2)
    assert len(list(settings.archive_dir.rglob("windows.parquet"))) == 1


def test_every_table_is_vacuumed(settings: Settings) -> None:
    assert {"raw.listens", "raw.quarantine", "raw.stream_listens"} <= set(maintenance.vacuum(settings))
    [(analyzed,)] = query(
        settings, "select last_analyze is not null from pg_stat_user_tables where relname = 'listens'"
    )
    assert analyzed
