from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from helpers import MakeWarehouse, query

from music_pulse.errors import DatabaseError, InputError
from music_pulse.settings import Settings
from serving.queries import stream_query, summary

pytestmark = pytest.mark.integration


def ask(settings: Settings, sql: str) -> tuple[list[str], list[Any]]:
    with stream_query(settings, sql) as (columns, rows):
        return columns, list(rows)


def test_the_summary_tells_the_newest_day_and_the_totals(marts: Settings) -> None:
    found = summary(marts)
    assert (found.listens, found.tracks, found.artists, found.listens_without_duration) == (71, 18, 6, 1)
    assert found.minutes == pytest.approx((60 * 200 + 9 * 240) / 60 + 1 / 60_000)
    assert (found.newest_day, found.day_listens) == (date(2020, 8, 4), 1)
    assert [(top.name, top.listens) for top in found.top_artists] == [("İstanbul Trio", 1)]
    assert [(top.name, top.artist_name) for top in found.top_tracks] == [("🎵", "İstanbul Trio")]
    assert [(user.user_id, user.landed, user.listens, user.reported) for user in found.users] == [
        ("ann", 69, 69, None),
        ("bob", 2, 2, None),
    ]


def test_before_the_first_build_the_summary_says_what_to_do(make_warehouse: MakeWarehouse) -> None:
    with pytest.raises(DatabaseError, match="pulse dbt build"):
        summary(make_warehouse())


def test_rows_come_with_their_columns(marts: Settings) -> None:
    assert ask(marts, "select 1 as one, 'x' as letter") == (["one", "letter"], [(1, "x")])
    assert ask(marts, "select day from marts.listen_events where false") == (["day"], [])
    assert len(ask(marts, "select * from generate_series(1, 2500) as n")[1]) == 2500
    assert ask(marts, "  SHOW transaction_read_only")[1] == [("on",)]
    assert ask(marts, "explain select 1")[0] == ["QUERY PLAN"]
    assert ask(marts, "with one as (select 1 as x) table one;") == (["x"], [(1,)])


@pytest.mark.parametrize(
    "sql",
    [
        "delete from marts.tracks",
        "with gone as (delete from marts.tracks returning 1) select * from gone",
        "create table marts.mine (a int)",
        "create temp table mine as select 1 as a",
        "select 1; delete from marts.tracks",
        "commit; delete from marts.tracks",
        "set transaction read write",
        "set session characteristics as transaction read write",
        "reset role",
        "set role pulse_transformer",
        "copy marts.tracks to '/tmp/tracks'",
        "copy (select 1) to program 'true'",
        "select pg_read_file('/etc/passwd')",
        "select * from raw.listens",
        "select * from intermediate.int_listens_deduplicated",
        "explain analyze delete from marts.tracks",
        "explain select 1; delete from marts.tracks",
        "do $$ begin delete from marts.tracks; end $$",
        "selec nonsense",
        "",
    ],
)
def test_what_is_not_one_reading_statement_is_refused_in_one_line(sql: str, marts: Settings) -> None:
    before = query(marts, "select count(*) from marts.tracks")
    with pytest.raises(InputError) as caught:
        ask(marts, sql)
    assert "\n" not in str(caught.value)
    assert query(marts, "select count(*) from marts.tracks") == before


def test_a_refusal_says_what_to_do(marts: Settings) -> None:
    with pytest.raises(InputError, match="DELETE isn't for here: it only reads"):
        ask(marts, "delete from marts.tracks")
    with pytest.raises(InputError, match='"marts.nothing" does not exist; `pulse dbt build`'):
        ask(marts, "select * from marts.nothing")
    with pytest.raises(InputError, match='syntax error at or near "selec"'):
        ask(marts, "selec 1")
