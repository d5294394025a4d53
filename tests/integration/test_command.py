"""The command as a person types it, against the API's double."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from doubles.listenbrainz import Fault, ListenBrainzDouble, listen
from typer.testing import CliRunner

from music_pulse.cli import app
from music_pulse.settings import PROJECT_ROOT

pytestmark = pytest.mark.integration

SECRET = "lb-t0ken-5ecret"
Pulse = Callable[..., subprocess.CompletedProcess[str]]

LINES = [
    json.dumps(
        {
            "listened_at": 1_600_000_000 + 60 * number,
            "track_metadata": {
                "artist_name": "Röyksopp",
                "track_name": f"T{number % 4}",
                "additional_info": {"duration_ms": 60_000},
            },
        }
    )
    for number in range(30)
]


@pytest.fixture(scope="module")
def api() -> Iterator[ListenBrainzDouble]:
    now = int(time.time())
    with ListenBrainzDouble() as double:
        double.add(
            "rob", [listen(now - 3600 * hour, f"Artist {hour % 7}", f"Track {hour % 50}") for hour in range(1_500)]
        )
        double.add("ann", [listen(now - 86_400 * day, "Ann's", "Song", duration_ms=90_000) for day in range(40)])
        double.add("empty", [])
        yield double


def runner(home: Path, api: ListenBrainzDouble) -> Pulse:
    def pulse(*arguments: str, module: str = "music_pulse.cli", **environment: str) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env={
                **os.environ,
                "PULSE_HOME": str(home),
                "PULSE_EXPORT_DIR": str(home / "warehouse"),
                "PULSE_LISTENBRAINZ_URL": api.url,
                "PULSE_LISTENBRAINZ_TOKEN": SECRET,
                "PULSE_LISTENBRAINZ_READ_TIMEOUT": "2",
                "PULSE_LISTENBRAINZ_ATTEMPTS": "3",
                **environment,
            },
            cwd=home,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        shown = ended.stdout + ended.stderr
        assert "Traceback" not in shown
        assert SECRET not in shown
        return ended

    return pulse


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def pulse(home: Path, api: ListenBrainzDouble) -> Pulse:
    return runner(home, api)


@pytest.fixture(scope="module")
def first_run(pulse: Pulse) -> subprocess.CompletedProcess[str]:
    return pulse("run", "--user", "ROB", "--user", "ann", "--user", "empty")


def asked(pulse: Pulse, sql: str, *options: str) -> list[dict[str, object]]:
    ended = pulse("query", sql, "--format", "json", *options)
    assert ended.returncode == 0, ended.stderr
    found: list[dict[str, object]] = json.loads(ended.stdout)
    return found


def numbers(shown: str) -> str:
    """Return the tables of a summary: all but the lines that speak of this run."""
    return shown[: shown.index("This run landed")]


def one_error_line(ended: subprocess.CompletedProcess[str]) -> str:
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, ended.stderr
    assert ended.stderr.rstrip().endswith(errors[0])
    return errors[0]


def test_a_run_lands_builds_exports_and_shows(first_run: subprocess.CompletedProcess[str], home: Path) -> None:
    assert first_run.returncode == 0, first_run.stderr
    shown = " ".join(first_run.stdout.split())
    assert re.search(r"rob 1,500 0 0 0 0 1,500 1,500 1,500 0", shown)
    assert re.search(r"ann 40 0 0 0 0 40 40 40 0", shown)
    assert re.search(r"empty 0 0 0 0 0 0 0 0", shown)
    assert "the newest day" in shown
    assert "1 artist" in shown
    assert "1 track" in shown
    assert "minutes" in shown
    assert str(home / "warehouse") in shown
    assert "pulse docs" in shown


def test_a_second_run_changes_no_number(first_run: subprocess.CompletedProcess[str], pulse: Pulse, home: Path) -> None:
    manifest = (home / "warehouse" / "manifest.json").read_bytes()
    marts = asked(pulse, "select count(*) as n, sum(value) as total from marts.daily_aggregates")
    again = pulse("run", "--user", "rob", "--user", "ann", "--user", "empty")
    assert again.returncode == 0, again.stderr
    assert "This run landed 0 listens and refused 0." in again.stdout
    assert numbers(again.stdout) == numbers(first_run.stdout)
    assert asked(pulse, "select count(*) as n, sum(value) as total from marts.daily_aggregates") == marts
    before, after = (
        json.loads(text)["files"] for text in (manifest, (home / "warehouse" / "manifest.json").read_bytes())
    )
    # The time of the check is new, and so is the table that tells it.
    assert [file for file in after if file not in before and file["table"] != "reconciliation"] == []


def test_every_line_of_a_run_s_log_has_its_id_and_no_secret(
    first_run: subprocess.CompletedProcess[str], home: Path
) -> None:
    text = (home / "logs" / "pulse.jsonl").read_text()
    entries = [json.loads(line) for line in text.splitlines()]
    assert all(entry["run_id"] for entry in entries)
    assert SECRET not in text
    assert json.loads((home / "postgres" / "roles.json").read_text())["loader"] not in text


def test_queries_print_json_csv_and_tables(first_run: subprocess.CompletedProcess[str], pulse: Pulse) -> None:
    sql = "select artist, count(*) as n from marts.listen_events where user_id = 'ann' group by 1"
    assert asked(pulse, sql) == [{"artist": "Ann's", "n": 40}]
    assert list(csv.reader(io.StringIO(pulse("query", sql, "--format", "csv").stdout))) == [
        ["artist", "n"],
        ["Ann's", "40"],
    ]
    assert "Ann's" in pulse("query", sql).stdout
    assert "\n1 row\n" in pulse("query", sql).stdout
    assert asked(pulse, "select 1 as a where false") == []
    refused = pulse("query", "delete from marts.tracks")
    assert refused.returncode == 2
    assert one_error_line(refused).startswith("error: query: ")


def test_new_listens_come_with_the_next_run(
    first_run: subprocess.CompletedProcess[str], pulse: Pulse, api: ListenBrainzDouble
) -> None:
    api.add("ann", [listen(int(time.time()) - 30, "Ann's", "New song")])
    ended = pulse("run", "--user", "ann")
    assert "This run landed 1 listens and refused 0." in ended.stdout
    assert asked(pulse, "select reported, held, difference from marts.reconciliation where user_id = 'ann'") == [
        {"reported": 41, "held": 41, "difference": 0}
    ]


def test_status_doctor_export_and_docs_work(
    first_run: subprocess.CompletedProcess[str], pulse: Pulse, home: Path
) -> None:
    shown = pulse("status").stdout
    assert "not running" in shown
    assert re.search(r"kafka +not running", shown)
    assert re.search(r"listens +1,5\d\d of 3 users", shown)
    healthy = pulse("doctor")
    assert healthy.returncode == 0, healthy.stdout
    assert "rob has 1,500 listens" in healthy.stdout
    assert "!!" not in healthy.stdout
    assert "files written" in pulse("export", "--to", str(home / "elsewhere")).stdout
    assert (home / "elsewhere" / "manifest.json").exists()
    assert pulse("docs", "--no-serve").returncode == 0
    assert (home / "dbt" / "pulse" / "catalog.json").exists()


def test_up_keeps_the_server_for_plain_dbt_and_dlt_until_down(
    first_run: subprocess.CompletedProcess[str], pulse: Pulse, home: Path
) -> None:
    try:
        assert pulse("up").returncode == 0
        assert "up on 127.0.0.1" in pulse("status").stdout
        script = (
            f". {home}/env && {sys.executable} -c 'from dbt.cli.main import cli; cli()' test --select tracks "
            f"--project-dir {PROJECT_ROOT}/dbt_project --profiles-dir {PROJECT_ROOT} --exclude-resource-type unit_test"
        )
        tested = subprocess.run(["bash", "-c", script], cwd=home, capture_output=True, text=True, check=False)
        assert tested.returncode == 0, tested.stdout
        info = [str(Path(sys.executable).with_name("dlt")), "pipeline", "--pipelines-dir", str(home / "dlt" / "pulse")]
        assert (
            subprocess.run([*info, "listenbrainz", "info"], cwd=home, capture_output=True, check=False).returncode == 0
        )
    finally:
        assert "stopped" in pulse("down").stdout
    assert "not running" in pulse("down").stdout


def test_the_source_runs_alone(pulse: Pulse) -> None:
    ended = pulse("--user", "rob", "--since", "2020-01-01", module="extract.listenbrainz")
    assert ended.returncode == 0
    assert ended.stdout.startswith("landed 0 listens")
    unknown = pulse("--user", "nobody-at-all", module="extract.listenbrainz")
    assert unknown.returncode == 4
    assert "no user" in one_error_line(unknown)


def test_since_leaves_out_what_came_before(api: ListenBrainzDouble, tmp_path: Path) -> None:
    pulse = runner(tmp_path, api)
    day = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 10 * 86_400))
    ended = pulse("extract", "listenbrainz", "--user", "rob", "--since", day)
    landed = int(re.sub(r"\D", "", ended.stdout.split(" listens")[0]))
    assert 240 <= landed <= 264
    assert "landed 1,2" in pulse("extract", "listenbrainz", "--user", "rob").stdout


def test_an_explicit_user_and_an_unreachable_api_is_an_error_and_never_invented_data(
    api: ListenBrainzDouble, tmp_path: Path
) -> None:
    pulse = runner(tmp_path, api)
    ended = pulse("run", "--user", "rob", PULSE_LISTENBRAINZ_URL="http://127.0.0.1:9")
    assert ended.returncode == 4
    assert "PULSE_LISTENBRAINZ_URL" in one_error_line(ended)
    assert not (tmp_path / "dlt" / "pulse_demo").exists()


def test_a_mistyped_user_of_the_settings_is_an_error_and_never_invented_data(
    api: ListenBrainzDouble, tmp_path: Path
) -> None:
    ended = runner(tmp_path, api)("run", PULSE_LISTENBRAINZ_USER="nobody-at-all")
    assert ended.returncode == 4
    assert "no user" in one_error_line(ended)
    assert not (tmp_path / "dbt").exists()


def test_the_demo_takes_nobodys_listens(api: ListenBrainzDouble, tmp_path: Path) -> None:
    pulse = runner(tmp_path, api)
    assert "neither --user nor --since" in one_error_line(pulse("run", "--demo", "--user", "rob"))
    assert "--demo" in one_error_line(pulse("run", "--user", "rob", PULSE_POSTGRES_DBNAME="pulse_demo"))
    assert "future" in one_error_line(pulse("run", "--since", "2999-01-01"))


def test_a_shell_with_the_demos_dbt_login_still_lands_in_the_real_database(
    api: ListenBrainzDouble, tmp_path: Path
) -> None:
    home = tmp_path / "a home"  # a space in it, too
    home.mkdir()
    pulse = runner(home, api)
    try:
        shown = pulse("up", "--demo").stdout
        [source] = re.findall(r"\. ('.*env')", shown)
        script = f"set -a; . {source}; env"
        lines = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
        shell = dict(line.split("=", 1) for line in lines if line.startswith(("PULSE_POSTGRES_", "PULSE_DBT_", "PG")))
        assert (shell["PULSE_DBT_DBNAME"], shell["PGDATABASE"]) == ("pulse_demo", "pulse_demo")
        assert "database  pulse\n" in pulse("status", **shell).stdout
        assert pulse("extract", "listenbrainz", "--user", "ann", **shell).returncode == 0
        assert "0 of" not in pulse("query", "select 1", **shell).stdout
        landed = pulse(
            "dbt", "show", "--quiet", "--inline", "select count(*) as n from {{ source('batch', 'listens') }}"
        )
        assert re.search(r"\b4[01]\b", landed.stdout), landed.stdout
    finally:
        pulse("down")


def test_without_a_user_and_an_api_invented_listens_go_to_a_database_of_their_own(
    api: ListenBrainzDouble, tmp_path: Path
) -> None:
    pulse = runner(tmp_path, api)
    ended = pulse("run", PULSE_LISTENBRAINZ_URL="http://127.0.0.1:9")
    assert ended.returncode == 0, ended.stderr
    assert "can't be reached: going on with invented listens" in ended.stderr
    found = asked(pulse, "select distinct source, user_id from marts.listen_events", "--demo")
    assert {row["source"] for row in found} == {"synthetic"}
    assert all(str(row["user_id"]).startswith("synthetic_") for row in found)
    again = pulse("run", "--demo")
    assert numbers(again.stdout) == numbers(ended.stdout)
    assert (tmp_path / "warehouse_demo" / "manifest.json").exists()
    assert not (tmp_path / "warehouse").exists()
    real = pulse("query", "select * from marts.listen_events")
    assert real.returncode == 2, "the real database holds nothing"


def test_files_are_imported_once_and_refusals_are_one_line(api: ListenBrainzDouble, tmp_path: Path) -> None:
    pulse = runner(tmp_path, api)
    plain, packed, export = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz", tmp_path / "export.zip"
    plain.write_text("\n".join(LINES[:10]))
    packed.write_bytes(gzip.compress("\n".join([*LINES[10:20], "{broken", '{"track_metadata": 3}']).encode()))
    with zipfile.ZipFile(export, "w") as archive:
        archive.writestr("listens/2020/9.jsonl", "\n".join(LINES[15:]))
    nameless = pulse("import", str(plain))
    assert nameless.returncode == 2
    assert "--user NAME" in one_error_line(nameless)
    (tmp_path / "nothing").mkdir()
    nothing = pulse("import", str(tmp_path / "nothing"), "--user", "eve")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert "nothing to import" in one_error_line(nothing)
    for bad in (tmp_path / "missing.jsonl", tmp_path / "bad.gz", tmp_path / "bad.zip"):
        if bad.suffix == ".gz":
            bad.write_bytes(packed.read_bytes()[:-40])
        elif bad.suffix == ".zip":
            bad.write_bytes(export.read_bytes()[:-30])
        ended = pulse("import", str(bad), "--user", "eve")
        assert ended.returncode == 2
        assert bad.name in one_error_line(ended)
    done = pulse("import", str(plain), str(packed), str(export), "--user", "eve")
    assert done.stdout.startswith("landed 35 listens, refused 2")
    assert pulse("import", str(packed), "--user", "eve").stdout.startswith("landed 0 listens, refused 0")
    built = pulse("dbt", "build", "--exclude-resource-type", "unit_test")
    assert built.returncode == 0, built.stdout
    assert asked(pulse, "select landed, refused, duplicates, listens, reported from marts.reconciliation") == [
        {"landed": 35, "refused": 2, "duplicates": 5, "listens": 30, "reported": None}
    ]


def test_a_fault_in_mid_history_is_retried_and_a_lasting_one_is_one_line(
    api: ListenBrainzDouble, tmp_path: Path
) -> None:
    pulse = runner(tmp_path, api)
    api.faults.extend(
        [Fault("status", status=502, body=b"<html>bad gateway</html>"), Fault("cut"), Fault("invalid_json")]
    )
    assert pulse("extract", "listenbrainz", "--user", "ann", PULSE_LISTENBRAINZ_ATTEMPTS="5").returncode == 0
    api.fault = lambda index, path, query: Fault("status", status=503) if "min_ts" in query else None
    try:
        ended = pulse("extract", "listenbrainz", "--user", "rob")
    finally:
        api.fault = None
    assert ended.returncode == 4
    assert "503" in one_error_line(ended)
    assert pulse("extract", "listenbrainz", "--user", "rob").stdout.startswith("landed 1,500 listens")


@pytest.mark.parametrize(
    ("name", "value"),
    [("PULSE_TARGET", "moon"), ("PULSE_LISTENBRAINZ_URL", "ftp://x"), ("PULSE_DBT_VARS", "nonsense")],
)
def test_a_bad_setting_is_one_line(name: str, value: str, pulse: Pulse) -> None:
    ended = pulse("status", **{name: value})
    assert ended.returncode == 2
    assert one_error_line(ended)


@pytest.mark.parametrize(
    "command",
    [
        "",
        "run",
        "extract",
        "extract listenbrainz",
        "extract synthetic",
        "import",
        "export",
        "query",
        "docs",
        "up",
        "down",
        "status",
        "doctor",
        "live",
        "stream",
        "stream sink",
        "stream trending",
        "stream simulate",
        "stream replay",
        "stream status",
    ],
)
def test_help_is_complete(command: str) -> None:
    ended = CliRunner().invoke(app, [*command.split(), "--help"])
    assert ended.exit_code == 0
    assert "Usage:" in ended.stdout
    assert not re.findall(r".*\w\.\.\.$", ended.stdout, re.MULTILINE), "cut off"


BATCH_ONLY = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"confluent_kafka", "kafka", "pyspark", "jgo", "prometheus_client", "airflow"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nothing())
from music_pulse.cli import main
main()
"""


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ("status", 0, "postgres"),
        ("down", 0, "Postgres"),
        ("dbt list --quiet --select trending", 0, "music_pulse.marts.trending"),
        ("stream sink", 2, "confluent_kafka isn't installed: `make setup-all`"),
    ],
)
def test_the_batch_works_without_the_packages_of_the_stream(command: str, code: int, says: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", BATCH_ONLY, *command.split()],
        env={**os.environ, "PULSE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (ended.returncode, says in ended.stdout + ended.stderr) == (code, True), ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_is_one_line_and_nothing_is_lost_once_there_is_room(
    api: ListenBrainzDouble, tmp_path: Path
) -> None:
    disk, source = tmp_path / "disk", tmp_path / "many.jsonl"
    disk.mkdir()
    source.write_text(
        "".join(
            f'{{"listened_at": {1_500_000_000 + number}, "user_name": "eve", "track_metadata": '
            f'{{"artist_name": "Artist {number % 999}", "track_name": "Track {number % 7919} {"x" * 200}"}}}}\n'
            for number in range(100_000)
        )
    )
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=130m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("no mount is permitted here")
    try:
        pulse = runner(disk, api)
        full = pulse("import", str(source))
        assert full.returncode == 3
        assert "o space left" in one_error_line(full)
        subprocess.run(["mount", "-o", "remount,size=2g", str(disk)], check=True)
        assert pulse("import", str(source)).stdout.startswith("landed 100,000 listens, refused 0")
        assert pulse("import", str(source)).stdout.startswith("landed 0 listens")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
