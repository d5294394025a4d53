from __future__ import annotations

import pyarrow as pa
import pytest

from extract.rows import BATCH_ROWS, LISTENS_SCHEMA
from extract.synthetic import land
from extract.synthetic.generator import END, Plan, generate
from music_pulse.errors import ConfigurationError
from music_pulse.identity import listen_id
from music_pulse.listens import MIN_LISTENED_AT
from music_pulse.settings import load_settings


def listens(plan: Plan) -> pa.Table:
    return pa.concat_tables([rows.listens for rows in generate(plan)])


def test_a_seed_gives_the_same_listens_and_another_seed_others() -> None:
    plan = Plan(listens=3_000, seed=7)
    assert listens(plan).equals(listens(plan))
    assert not listens(plan).equals(listens(Plan(listens=3_000, seed=8)))


def test_the_number_of_listens_is_the_plan_s_and_batches_are_bounded() -> None:
    sizes = [rows.listens.num_rows for rows in generate(Plan(listens=BATCH_ROWS * 3 + 17, users=2))]
    assert sum(sizes) == BATCH_ROWS * 3 + 17
    assert max(sizes) <= BATCH_ROWS


def test_it_is_as_varied_as_real_listening() -> None:
    table = listens(Plan(listens=20_000))
    rows = table.to_pylist()
    ids = [row["listen_id"] for row in rows]
    artists = [row["artist_id"] for row in rows]
    seconds = sorted(row["listened_at"].timestamp() for row in rows)
    hours = [row["listened_at"].hour for row in rows if row["user_name"] == "synthetic_4"]  # lives in UTC
    assert table.schema == LISTENS_SCHEMA
    assert {row["user_name"] for row in rows} == {f"synthetic_{number}" for number in range(1, 6)}
    assert {row["source"] for row in rows} == {"synthetic"}
    assert 0.002 < 1 - len(set(ids)) / len(ids) < 0.03
    assert 0.05 < sum(row["album"] is None for row in rows) / len(rows) < 0.2
    assert 0.03 < sum(row["duration_ms"] is None for row in rows) / len(rows) < 0.15
    assert any(not row["artist_name"].isascii() for row in rows)
    top = max(artists.count(artist) for artist in set(artists[:500]))
    assert top > 20 * len(artists) / len(set(artists))
    assert seconds[0] > MIN_LISTENED_AT
    assert seconds[-1] < END
    assert sum(2 <= hour < 6 for hour in hours) < sum(18 <= hour < 22 for hour in hours) / 3


def test_ids_are_those_of_identity() -> None:
    row = listens(Plan(listens=100)).slice(42, 1).to_pylist()[0]
    expected = listen_id(row["user_name"], int(row["listened_at"].timestamp()), row["artist_name"], row["track_name"])
    assert row["listen_id"] == expected.bytes


def test_invented_listens_only_go_to_the_demo() -> None:
    with pytest.raises(ConfigurationError, match="pulse_demo"):
        land(load_settings(), listens=10, seed=1)
