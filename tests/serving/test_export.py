from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest
from helpers import MakeWarehouse, build, listen, load, query

from music_pulse.errors import ConfigurationError, DatabaseError, PulseError
from music_pulse.settings import Settings
from serving.export import BY_MONTH, MANIFEST, WHOLE, export_marts, snapshot_files

pytestmark = pytest.mark.integration

SUMMER = 1_561_939_200
TABLES = [*BY_MONTH, *WHOLE]


def rows_of(location: Path, table: str) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for path in snapshot_files(location, table):
        rows += [tuple(row.values()) for row in pq.ParquetFile(path).read().to_pylist()]
    return rows


def rows_in_database(settings: Settings, table: str) -> list[tuple[Any, ...]]:
    rows = query(settings, f"select * from marts.{table}")
    return [tuple(str(value) if isinstance(value, UUID) else value for value in row) for row in rows]


def files_in(location: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(location)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in location.rglob("*")
        if path.is_file()
    }


def assert_equals_database(settings: Settings, location: Path) -> None:
    for table in TABLES:
        assert sorted(rows_of(location, table), key=repr) == sorted(rows_in_database(settings, table), key=repr), table


def test_every_mart_comes_back_row_for_row(marts: Settings, tmp_path: Path) -> None:
    exported = export_marts(marts, str(tmp_path / "out"))
    assert exported.rows["listen_events"] == 71
    assert set(exported.rows) == set(TABLES)
    assert_equals_database(marts, tmp_path / "out")
    assert ("夜", "東京事変") in {row[3:5] for row in rows_of(tmp_path / "out", "listen_events")}


def test_months_have_files_of_their_own_and_only_their_days(marts: Settings, tmp_path: Path) -> None:
    export_marts(marts, str(tmp_path))
    for table in BY_MONTH:
        months = set()
        for path in map(Path, snapshot_files(tmp_path, table)):
            month = path.parent.name.removeprefix("month=")
            months.add(month)
            days = pq.ParquetFile(path).read(columns=["day"])["day"].to_pylist()
            assert {day.strftime("%Y-%m") for day in days} == {month}
            assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
        assert months == {"2019-07", "2019-08", "2020-08"}


def test_the_rows_of_a_file_are_in_the_order_of_its_table(marts: Settings, tmp_path: Path) -> None:
    export_marts(marts, str(tmp_path))
    for table, order in (BY_MONTH | WHOLE).items():
        for path in snapshot_files(tmp_path, table):
            keys = [tuple(row.values()) for row in pq.ParquetFile(path).read(columns=order.split(", ")).to_pylist()]
            assert keys == sorted(keys), table


def test_with_nothing_new_nothing_is_written(marts: Settings, tmp_path: Path) -> None:
    export_marts(marts, str(tmp_path))
    before = files_in(tmp_path)
    again = export_marts(marts, str(tmp_path))
    assert (again.written, again.removed) == (0, 0)
    assert files_in(tmp_path) == before


def test_only_changed_months_are_written_and_emptied_ones_vanish(make_warehouse: MakeWarehouse, tmp_path: Path) -> None:
    settings = make_warehouse()
    loads, out = tmp_path / "loads", tmp_path / "out"
    loads.mkdir()
    load(settings, loads, [listen(SUMMER), listen(SUMMER + 45 * 86_400), listen(SUMMER + 200 * 86_400)])
    build(settings)
    export_marts(settings, str(out))
    before = files_in(out)
    load(settings, loads, [listen(SUMMER + 46 * 86_400, "New")])
    build(settings)
    exported = export_marts(settings, str(out))
    kept = {name for name, file in files_in(out).items() if before.get(name) == file}
    assert {name.split("/")[1] for name in kept if "month=" in name} == {"month=2019-07", "month=2020-01"}
    assert (exported.kept, exported.written) == (4, 7)
    assert_equals_database(settings, out)

    # In Los Angeles the first listen of July is one of June.
    build(settings, time_zone="America/Los_Angeles")
    export_marts(settings, str(out))
    assert sorted(path.name for path in (out / "listen_events").iterdir()) == [
        "month=2019-06",
        "month=2019-08",
        "month=2020-01",
    ]
    assert_equals_database(settings, out)


def test_a_glob_sees_just_the_snapshot(marts: Settings, tmp_path: Path) -> None:
    export_marts(marts, str(tmp_path))
    (tmp_path / "tracks" / "part-0000000000000000.parquet").write_bytes(b"an old snapshot's")
    (tmp_path / "tracks" / "part-1.parquet.tmp").write_bytes(b"a killed export's")
    assert export_marts(marts, str(tmp_path)).removed == 2
    assert [str(path) for path in (tmp_path / "tracks").iterdir()] == snapshot_files(tmp_path, "tracks")


@pytest.mark.parametrize("moment", [1, 4, 8, 11])
def test_a_kill_in_the_middle_leaves_the_old_snapshot_and_the_next_export_is_right(
    moment: int, marts: Settings, tmp_path: Path
) -> None:
    old = {"version": 1, "exported_at": "2020-01-01T00:00:00+00:00", "files": []}
    (tmp_path / MANIFEST).write_text(json.dumps(old))
    code = f"""
        import os, signal, sys
        from pathlib import Path
        from music_pulse.settings import Settings
        from serving import export
        write, count = export._write, 0
        def killed(storage, *rest):
            global count
            count += 1
            if count == {moment}:
                with storage.new_file("tracks/part-x.parquet") as file:
                    file.write(b"half")
                    file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
            return write(storage, *rest)
        export._write = killed
        export.export_marts(Settings(_env_file=None), sys.argv[1])
    """
    login = marts.credentials("reader")
    environment = {
        **os.environ,
        "PULSE_POSTGRES_HOST": login.host,
        "PULSE_POSTGRES_PORT": str(login.port),
        "PULSE_POSTGRES_USER": login.user,
        "PULSE_POSTGRES_PASSWORD": login.password,
        "PULSE_POSTGRES_DBNAME": login.dbname,
        "PULSE_POSTGRES_SSLMODE": "disable",
    }
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert json.loads((tmp_path / MANIFEST).read_text()) == old
    export_marts(marts, str(tmp_path))
    assert_equals_database(marts, tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_is_one_line_and_the_old_snapshot_stays(
    make_warehouse: MakeWarehouse, marts: Settings, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("no mount is permitted here")
    try:
        export_marts(marts, str(disk))
        before = files_in(disk)
        (disk / "filler").write_bytes(b"x" * (shutil.disk_usage(disk).free - 4096))
        settings = make_warehouse()
        load(settings, tmp_path, [listen(SUMMER + second * 60, f"T{second}") for second in range(3_000)])
        build(settings)
        with pytest.raises(PulseError, match="no space left") as caught:
            export_marts(settings, str(disk))
        assert "\n" not in str(caught.value)
        (disk / "filler").unlink()
        assert files_in(disk) == before
        assert_equals_database(marts, disk)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_before_the_first_build_it_says_what_to_do(make_warehouse: MakeWarehouse, tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="pulse dbt build"):
        export_marts(make_warehouse(), str(tmp_path))


def test_an_unknown_kind_of_place_is_refused(marts: Settings) -> None:
    with pytest.raises(ConfigurationError, match="s3://bucket/prefix"):
        export_marts(marts, "ftp://somewhere")


def test_a_damaged_manifest_means_a_new_snapshot(marts: Settings, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("{")
    export_marts(marts, str(tmp_path))
    assert_equals_database(marts, tmp_path)


def with_s3(settings: Settings, s3: Any, secret: str) -> Settings:
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        **{
            **dict(settings),
            "s3_endpoint_url": s3.endpoint,
            "s3_access_key_id": s3.key,
            "s3_secret_access_key": secret,
        },
    )


def test_the_same_snapshot_goes_to_s3(marts: Settings, s3: Any, tmp_path: Path) -> None:
    import s3fs

    settings = with_s3(marts, s3, s3.secret)
    export_marts(settings, "s3://pulse/warehouse")
    again = export_marts(settings, "s3://pulse/warehouse")
    assert again.written == 0
    filesystem = s3fs.S3FileSystem(key=s3.key, secret=s3.secret, endpoint_url=s3.endpoint)
    filesystem.pipe_file("pulse/warehouse/tracks/part-old.parquet", b"x")
    assert export_marts(settings, "s3://pulse/warehouse").removed == 1
    filesystem.get("pulse/warehouse/", str(tmp_path / "copy") + "/", recursive=True)
    assert_equals_database(marts, tmp_path / "copy")


def test_no_s3_credentials_are_one_line(marts: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(PulseError, match="credentials; check PULSE_S3_"):
        export_marts(marts, "s3://bucket/prefix")


def test_a_wrong_s3_secret_is_one_line_without_the_secret(marts: Settings, s3: Any) -> None:
    with pytest.raises(PulseError) as caught:
        export_marts(with_s3(marts, s3, "wrong-secret"), "s3://pulse/elsewhere")
    assert "\n" not in str(caught.value)
    assert "wrong-secret" not in str(caught.value)
