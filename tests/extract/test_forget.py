"""Of dlt's state, a person's part goes, and nobody else's."""

from __future__ import annotations

import time
from pathlib import Path

from doubles.listenbrainz import ListenBrainzDouble, listen
from helpers import MakeWarehouse, load, query, to_lines, write_lines

from extract.exports import import_files
from extract.forget import forget_in_raw
from extract.listenbrainz import extract_listenbrainz
from extract.listenbrainz.common import SOURCE
from extract.listenbrainz.reconcile import reconcile_listenbrainz
from extract.pipeline import landing
from music_pulse.database import connect
from music_pulse.forget import mentioning
from music_pulse.settings import Settings


def test_every_part_of_the_state_forgets_the_person_and_no_one_of_a_longer_name(make_warehouse: MakeWarehouse) -> None:
    users = ["Rob", "Rob Smith"]
    with ListenBrainzDouble() as api:
        settings = make_warehouse(listenbrainz_url=api.url, listenbrainz_attempts=1)
        for user in users:
            api.add(user, [listen(int(time.time()) - 86_400)])
        extract_listenbrainz(settings, users)
        reconcile_listenbrainz(settings, users, is_full=True)
    with connect(settings.credentials("admin")) as connection:
        forget_in_raw(connection, ["rob"], mentioning(["rob"]))
    with landing(settings, SOURCE) as target:
        state = target.state(SOURCE)
    assert {"intervals", "verified", "unexplained"} <= state.keys()
    assert {part: [*kept] for part, kept in state.items()} == dict.fromkeys(state, ["Rob Smith"])


def test_of_others_refused_records_those_go_that_say_they_are_the_persons(warehouse: Settings, tmp_path: Path) -> None:
    """A name may be a word in what others heard."""
    refused = {"listened_at": 1, "track_metadata": {"artist_name": "Rob", "track_name": "T"}}
    load(warehouse, tmp_path, [{**refused, "user_name": "Ann"}, {**refused, "user_name": "rob"}, b"Rob, undecodable"])
    path = write_lines(tmp_path / "of_ann.jsonl", to_lines([refused, {**refused, "user_name": "Rob"}]))
    import_files(warehouse, [path], user_name="Ann")
    with connect(warehouse.credentials("admin")) as connection:
        forget_in_raw(connection, ["rob"], mentioning(["rob"]))
    kept = query(warehouse, "select user_name, payload::jsonb ->> 'user_name' from raw.quarantine order by 1, 2")
    assert kept == [("Ann", None), (None, "Ann")]
