"""What is written for a replay is what counts."""

from __future__ import annotations

import json
import time
from pathlib import Path

from doubles.listenbrainz import ListenBrainzDouble, listen
from helpers import MakeWarehouse

from extract.exports import import_files
from extract.landed import write_landed
from extract.listenbrainz import extract_listenbrainz
from extract.listenbrainz.reconcile import reconcile_listenbrainz


def test_what_is_gone_at_listenbrainz_does_not_come_back_by_a_replay(
    make_warehouse: MakeWarehouse, tmp_path: Path
) -> None:
    day_ago = int(time.time()) - 86_400
    with ListenBrainzDouble() as api:
        settings = make_warehouse(listenbrainz_url=api.url, listenbrainz_attempts=1)
        api.add("Rob", [listen(day_ago + place, track=f"Track {place}") for place in range(3)])
        extract_listenbrainz(settings, ["Rob"])
        api.remove("Rob", day_ago + 1)
        assert reconcile_listenbrainz(settings, ["Rob"])[0].tombstones == 1
    path = tmp_path / "landed.jsonl"
    assert write_landed(settings, path) == 2
    written = [json.loads(line)["listened_at"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert sorted(written) == [day_ago, day_ago + 2]


def test_a_skip_does_not_become_a_listen_by_a_replay(make_warehouse: MakeWarehouse, tmp_path: Path) -> None:
    settings = make_warehouse()
    played = [1_000, 29_999, 30_000, 200_000]
    stream = {"artistName": "Can", "trackName": "Halleluwah", "endTime": "2020-01-01 10:00"}
    path = tmp_path / "StreamingHistory0.json"
    path.write_text(json.dumps([{**stream, "msPlayed": ms} for ms in played]))
    import_files(settings, [path], user_name="ann")
    assert write_landed(settings, tmp_path / "landed.jsonl") == 2
    lines = (tmp_path / "landed.jsonl").read_text(encoding="utf-8").splitlines()
    lengths = {json.loads(line)["track_metadata"]["additional_info"]["duration_ms"] for line in lines}
    assert lengths == {30_000, 200_000}
