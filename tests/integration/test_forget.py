"""Whoever is forgotten is nowhere, the rest is as if they had never been here, and they stay out."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest
from doubles.listenbrainz import ListenBrainzDouble
from doubles.listenbrainz import listen as api_listen
from helpers import MakeWarehouse, build, checksums, execute, listen, query, to_lines, write_lines

from extract.exports import import_files
from extract.listenbrainz import extract_listenbrainz
from extract.listenbrainz.reconcile import reconcile_listenbrainz
from music_pulse import forget as module
from music_pulse import transform
from music_pulse.blocklist import KEY_FILE
from music_pulse.database import connect
from music_pulse.errors import BuildError, ConfigurationError, InputError
from music_pulse.forget import allow, finish_erasures, forget, mentioning
from music_pulse.settings import Settings
from serving.export import export_marts
from streaming.archive import ListensArchive
from streaming.client import JsonSerializer, Record
from streaming.events import EventBuilder
from streaming.listen_rows import ListenReader
from streaming.listens_table import write_load
from streaming.window_archive import archive_windows

pytestmark = pytest.mark.integration

STAYS = "rob"
GONE = ("Zéldra Quux", "Ünna", 'Wi"lma', "quentin-x")
SPELT = {name: f" {name.upper()} " for name in GONE}
DAY = 86_400
START = 1_700_000_000 // DAY * DAY

_offsets = itertools.count()


@pytest.fixture(scope="module")
def api() -> Iterator[ListenBrainzDouble]:
    with ListenBrainzDouble() as double:
        yield double


@pytest.fixture
def make(make_warehouse: MakeWarehouse, tmp_path: Path, api: ListenBrainzDouble) -> Callable[[str], Settings]:
    """Make settings whose every folder is the test's, PULSE_HOME included."""

    def made(name: str) -> Settings:
        folder = tmp_path / name
        folder.mkdir()
        settings = make_warehouse(
            export_dir=str(folder / "warehouse"), archive_dir=folder / "stream", listenbrainz_url=api.url
        )
        return settings.model_copy(update={"home": folder / "home"})

    return made


def fill(settings: Settings, api: ListenBrainzDouble, folder: Path, people: Sequence[str]) -> None:
    """Bring listens of `people` in by every way there is, build and export."""
    api.clear()
    for name in people:
        shared = [api_listen(START + 600 * n, f"Artist {n % 3}", f"Song {n % 5}") for n in range(30)]
        own = [api_listen(START + DAY * n + 7, f"Only {key_of(name)}", "Own") for n in range(1, 4)]
        spelling = f"Spelling {sum(name.encode()) % 100}"
        mbids = {"artist_mbids": [str(UUID(int=1))], "recording_mbid": str(UUID(int=2))}
        api.add(name, [*shared, *own, api_listen(START - 5 * DAY, spelling, spelling, **mbids)])
        api.add_raw(name, {"user_name": name, "listened_at": START + 1, "track_metadata": {}})
        extract_listenbrainz(settings, [name])
        lines = to_lines(listen(START - DAY - 60 * n, f"Song {n}", "Old", user=None, ms=200_000) for n in range(20))
        import_files(settings, [write_lines(folder / f"{key_of(name)}.jsonl", lines)], user_name=name)
    mixed = [listen(START + 60 * n, "Mixed", user=SPELT.get(name, name)) for n, name in enumerate(people)]
    bad = [{"user_name": name, "listened_at": 5, "track_metadata": {}} for name in people]
    import_files(settings, [write_lines(folder / "mixed.jsonl", to_lines([*mixed, *bad]))])
    stream(settings, [
        *(listen(START + 2 * DAY + 30 * n, f"Song {n % 2}", "Live", user=name) for name in people for n in range(20)),
        *(listen(START + 3 * DAY + 900 * n, "Alone", "Live", user=name) for n, name in enumerate(people)),
    ])  # fmt: skip
    build(settings)
    count_windows(settings)
    ListensArchive(settings.credentials("loader"), settings.archive_dir / "listens").update()
    archive_windows(settings.credentials("loader"), settings.archive_dir / "trending_windows")
    export_marts(settings)


def key_of(name: str) -> str:
    return re.sub(r"\W", "", name.lower())


def stream(settings: Settings, listens: Sequence[dict[str, Any]]) -> None:
    built, refused = EventBuilder().build(listens, now=START + 10 * DAY)
    assert refused == []
    values = [(event["user_name"].encode(), JsonSerializer().serialize(event)) for event in built]
    records = [Record("t", 0, next(_offsets), (START + 9 * DAY) * 1000, key, value, []) for key, value in values]
    rows, _ = ListenReader(JsonSerializer(), 1_000_000).read(records)
    with connect(settings.credentials("loader")) as connection:
        write_load(connection, rows, events=len(records), refused=0)


def count_windows(settings: Settings) -> None:
    """Write the windows as the trending job counts them, all closed."""
    execute(
        settings,
        "insert into raw.trending_windows select window_start, window_end, kind, id, artist_name, track_name, listens,"
        " listeners, now() from marts.trending_recomputed",
    )
    execute(
        settings,
        "insert into raw.trending_ledger (query_id, batch_id, watermark, updated_at)"
        " values (gen_random_uuid(), 1, to_timestamp(%s), now())",
        [START + 5 * DAY],
    )


def windows(settings: Settings) -> tuple[list[Any], ...]:
    columns = "window_start, {}, {}, artist_name, track_name, {}, {}"
    streamed = columns.format("entity_kind", "entity_id", "listen_count", "listener_count")
    counted = columns.format("kind", "id", "listens", "listeners")
    return (
        query(settings, f"select {streamed} from raw.trending_windows order by 1, 2, 3"),
        query(settings, f"select {counted} from marts.trending_recomputed order by 1, 2, 3"),
        query(settings, f"select {counted} from intermediate.int_trending_windows order by 1, 2, 3"),
    )


def assert_nowhere(settings: Settings, name: str) -> None:
    """Look for the name in every row of every relation, in dlt's state, in Parquet and in the files of PULSE_HOME."""
    is_named = mentioning([name])
    relations = query(
        settings,
        "select format('%I.%I', nspname, relname) from pg_class join pg_namespace on relnamespace = pg_namespace.oid"
        " where relkind in ('r', 'v', 'm', 'p') and nspname not in ('pg_catalog', 'information_schema', 'pg_toast')",
    )
    assert len(relations) > 15
    for (relation,) in relations:
        for (row,) in query(settings, f"select cast(found as text) from {relation} as found"):
            assert not is_named(row.replace('""', '\\"')), relation
    from dlt.common.versioned_state import decompress_state

    for (state,) in query(settings, "select state from raw._dlt_pipeline_state"):
        assert not is_named(json.dumps(decompress_state(state), default=str))
    for folder in (Path(settings.export_dir), settings.archive_dir):
        for path in folder.rglob("*.parquet"):
            assert not is_named(json.dumps(pq.read_table(path).to_pylist(), default=str)), path
    for path in filter(Path.is_file, settings.home.rglob("*")):
        assert not is_named(path.read_bytes().decode(errors="replace")), path


def assert_is_as_without_them(settings: Settings, fresh: Settings) -> None:
    assert marts(settings) == marts(fresh)
    assert windows(settings) == windows(fresh)
    for table in ("listen_events", "daily_aggregates", "user_daily_tracks"):
        assert _exported(settings, table) == _exported(fresh, table)
    for name in ("listens", "trending_windows"):
        assert _days(settings, name) == _days(fresh, name)


def marts(settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = checksums(settings)
    statement = "select to_jsonb(found) - 'checked_at' from marts.reconciliation as found order by user_id"
    return {**found, "reconciliation": query(settings, statement)}


def _exported(settings: Settings, table: str) -> list[str]:
    paths = Path(settings.export_dir).glob(f"{table}/**/*.parquet")
    rows = [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]
    return sorted(repr({name: value for name, value in row.items() if name != "updated_at"}) for row in rows)


def _days(settings: Settings, name: str) -> dict[str, int]:
    return {
        path.parent.name: pq.ParquetFile(path).metadata.num_rows
        for path in (settings.archive_dir / name).glob("day=*/*.parquet")
    }


def write_log(settings: Settings, *names: str) -> Path:
    path = settings.home / "logs" / "pulse.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [{"message": f"{name}: 12 listens reported"} for name in names]
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")
    return path


def stopped(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def test_forgotten_people_are_nowhere_wherever_it_was_interrupted(
    make: Callable[[str], Settings], api: ListenBrainzDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, settings = make("fresh"), make("full")
    fill(fresh, api, tmp_path, [STAYS])
    fill(settings, api, tmp_path, [STAYS, *GONE])
    log = write_log(settings, *GONE, STAYS)

    with pytest.raises(InputError, match="nobody called 'nemo'"):
        forget(settings, "nemo")
    with pytest.raises(InputError, match="nothing was deleted"):
        forget(settings, GONE[0], lambda _: False)
    assert query(settings, "select to_regclass('raw.blocked_users')") == [(None,)]

    receipt = forget(settings, SPELT[GONE[0]])
    assert receipt.rows["raw.listens"] == 30 + 3 + 1 + 20 + 1
    assert receipt.rows["raw.stream_listens"] == 21
    assert receipt.rows["raw.quarantine"] == 2
    assert receipt.rows["log lines"] == 1
    assert query(settings, "select finished_at, rows_deleted from raw.erasures") == [
        (receipt.finished_at, receipt.rows)
    ]
    assert_nowhere(settings, GONE[0])

    stages: list[tuple[Any, str, type[BaseException]]] = [
        (module, "_forget_in_logs", KeyboardInterrupt),
        (transform, "build", BuildError),
        (module, "_export", KeyboardInterrupt),
    ]
    for name, (part, function, error) in zip(GONE[1:], stages, strict=True):
        with monkeypatch.context() as patch:

            def failing(*_: Any, error: type[BaseException] = error, **__: Any) -> Any:
                raise error

            patch.setattr(part, function, failing)
            with pytest.raises(error):
                forget(settings, name)
        assert query(settings, "select count(*) from raw.erasures where finished_at is null") == [(1,)]
        with pytest.raises(InputError, match="interrupted"):
            allow(settings, [name])
        if function == "build":
            assert len(finish_erasures(settings)) == 1
        else:
            forget(settings, name)
        assert_nowhere(settings, name)
    assert finish_erasures(settings) == []
    assert "rob" in log.read_text(encoding="utf-8")
    assert_is_as_without_them(settings, fresh)
    build(settings, full_refresh=True)
    assert marts(settings) == marts(fresh)


def test_they_stay_out_until_they_are_let_in(
    make: Callable[[str], Settings], api: ListenBrainzDouble, tmp_path: Path
) -> None:
    settings, name = make("one"), GONE[0]
    api.clear()
    api.add(name, [api_listen(START, "Artist", "Song")])
    own = write_lines(tmp_path / "own.jsonl", to_lines([listen(START, user=None)]))
    mixed = write_lines(
        tmp_path / "mixed.jsonl", to_lines([listen(START, user=STAYS), listen(START, user=SPELT[name])])
    )
    bad = write_lines(tmp_path / "bad.jsonl", to_lines([listen(START, user=STAYS), {"user_name": name}]))
    extract_listenbrainz(settings, [name])
    forget(settings, name)

    asked = len(api.requests)
    with pytest.raises(InputError, match="--allow"):
        extract_listenbrainz(settings, [STAYS, name.lower()])
    with pytest.raises(InputError, match="--allow"):
        reconcile_listenbrainz(settings, [name])
    assert len(api.requests) == asked
    assert reconcile_listenbrainz(settings, None) == []
    with pytest.raises(InputError, match="--allow"):
        import_files(settings, [own], user_name=SPELT[name])
    assert [bool(file.error) for file in import_files(settings, [mixed, bad]).files] == [True, True]
    assert_nowhere(settings, name)

    key = settings.home / KEY_FILE
    held = key.read_text(encoding="ascii")
    key.write_text("another", encoding="ascii")
    with pytest.raises(ConfigurationError, match="PULSE_BLOCKLIST_KEY"):
        import_files(settings, [own], user_name=name)
    key.write_text(held, encoding="ascii")

    allow(settings, [name])
    assert import_files(settings, [own], user_name=name).landed.listens == 1
    assert import_files(settings, [mixed]).landed.listens == 2
    assert extract_listenbrainz(settings, [name]).listens == 1


@pytest.mark.parametrize(
    ("text", "is_named"),
    [
        ("GET /1/user/z%C3%A9ldra%20quux/listens", True),
        (json.dumps({"user": "ZÉLDRA QUUX"}), True),
        ("ze\u0301ldra quux: 3 listens", True),
        ("zéldra quuxx", False),
        ("", False),
    ],
)
def test_a_name_is_found_as_a_word_in_any_spelling(text: str, is_named: bool) -> None:
    assert mentioning(["Zéldra Quux"])(text) is is_named
