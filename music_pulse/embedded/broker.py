"""An Apache Kafka of our own: one KRaft node, broker and controller, data under `home / "kafka"`.

The jars come from their Maven coordinates, the Java from a wheel. Both listeners are on 127.0.0.1, on ports that are
kept as long as they are free. See lifecycle.py for the locks.
"""

from __future__ import annotations

import base64
import fcntl
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from music_pulse.embedded import jars
from music_pulse.embedded.broker_configuration import JVM_FLAGS, LOGGING, NODE_ID, server_properties
from music_pulse.embedded.broker_security import MECHANISM, BrokerSecurity, Login
from music_pulse.embedded.java import java
from music_pulse.embedded.lifecycle import EmbeddedServer
from music_pulse.embedded.plumbing import HOST, free_port, is_free, open_lock, wait_until
from music_pulse.errors import BrokerError, ConfigurationError
from music_pulse.files import sync_folder, write_whole

log = logging.getLogger(__name__)

_PORT_ATTEMPTS = 5
_START_SECONDS = 300  # a start after a crash reads the end of every partition again
_STOP_SECONDS = 60
_DYING_SECONDS = 15
_NO_PORTS = (1, 2)  # formatting opens none, but wants to see some


class Endpoint(NamedTuple):
    """Where the broker listens (host:port), and the id of its cluster, which stays for the life of its data."""

    bootstrap: str
    cluster_id: str


class _PortTakenError(Exception):
    """A chosen port was taken between the check and the bind."""


class EmbeddedBroker(EmbeddedServer[Endpoint]):
    """The broker of one home folder.

    `jar_cache` is where its jars lie or are downloaded to (default: `home / "jars"`); `progress` hears of downloads.
    `secure` (decided by the first start) wants TLS, a login and rights of everybody: see broker_security.py.
    Every method that acts raises `BrokerError`, `DownloadError` or `ConfigurationError`.
    """

    title = "Kafka"
    failure = BrokerError

    def __init__(
        self,
        home: Path,
        jar_cache: Path | None = None,
        progress: jars.Progress | None = None,
        *,
        secure: bool = False,
    ) -> None:
        super().__init__(home, "kafka")
        self.data = self.folder / "data"
        self._secure = secure
        self._security = BrokerSecurity(self.folder / "security")
        self._jar_cache = (jar_cache or self.home / "jars").expanduser().absolute()
        self._progress = progress
        if ":" in str(self._jar_cache):
            raise ConfigurationError(f"Java can't use jars in {str(self._jar_cache)!r}; set PULSE_JAR_CACHE")

    def endpoint(self) -> Endpoint:
        """Return where the running broker listens; `BrokerError` if it doesn't run."""
        ports = self._ports() if self.is_running() else None
        if ports is None:
            raise BrokerError(f"no embedded Kafka runs in {self.home}; start it with `pulse up --kafka`")
        with self._failures():
            return Endpoint(f"{HOST}:{ports[0]}", self._cluster_id())

    def admin(self) -> Login:
        """Return the login of a secure broker that has been started once."""
        with self._failures():
            return self._security.admin()

    # Start and stop; the lock is held

    def _start(self, lock: int) -> Endpoint:
        if self.data.exists() and self._security.is_set_up != self._secure:
            has = "logins" if self._security.is_set_up else "no logins"
            raise ConfigurationError(f"the embedded Kafka in {self.home} has {has}; use another PULSE_HOME")
        if self.is_running() and self._wait_until_ready():
            return self.endpoint()
        program = self._program()
        write_whole(self.folder / "log4j2.properties", LOGGING, 0o600)
        if not self.data.exists():
            self._format(program, lock)
        ports = self._ports()
        for _ in range(_PORT_ATTEMPTS):
            ports = ports if ports is not None and all(map(is_free, ports)) else _free_ports()
            write_whole(self.folder / "ports", "{} {}\n".format(*ports), 0o600)
            self._configure("server.properties", ports, self.data)
            try:
                self._launch(program)
            except _PortTakenError:
                ports = None
                continue
            log.debug("embedded Kafka listens on %s:%d", HOST, ports[0])
            return self.endpoint()
        raise BrokerError(f"the embedded Kafka found no free port in {_PORT_ATTEMPTS} tries; try again")

    def _stop(self) -> bool:
        if not self.is_running():
            return False
        wait_until(lambda: self._pid() is not None or not self.is_running(), _DYING_SECONDS)
        for number, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _DYING_SECONDS)):
            pid = self._pid()
            if pid is not None and self.is_running():
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            if wait_until(lambda: not self.is_running(), seconds):
                log.debug("embedded Kafka stopped")
                return True
            log.warning("embedded Kafka didn't stop by %s", signal.Signals(number).name)
        raise BrokerError(f"the embedded Kafka doesn't stop; see {self.log_path}")

    def _format(self, program: Sequence[str], lock: int) -> None:
        """Make the data folder beside its place and move it there when it is whole.

        The tool inherits the lock: if we are killed, the next command waits until it, too, has ended.
        """
        log.info("initialising the embedded Kafka in %s", self.data)
        half_made = self.folder / "data.new"
        shutil.rmtree(half_made, ignore_errors=True)  # of a command that was killed here
        if self._secure:
            self._security.set_up()
        self._configure("format.properties", _NO_PORTS, half_made)
        # By a file: a command line, and the password in it, can be read by everybody on this machine.
        arguments = ["kafka.tools.StorageTool", "format", "-t", _new_cluster_id(), "-c", "format.properties"]
        arguments += self._security.format_options() if self._secure else []
        write_whole(self.folder / "format.arguments", "\n".join(arguments), 0o600)
        done = subprocess.run(
            [*program, "@format.arguments"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            cwd=self.folder,
            env=_environment(),
            start_new_session=True,
            pass_fds=(lock,),
        )
        (self.folder / "format.arguments").unlink()
        if done.returncode != 0:
            raise BrokerError(f"the embedded Kafka can't be initialised: {_reason(done.stdout + done.stderr)}")
        half_made.rename(self.data)
        sync_folder(self.folder)

    def _configure(self, name: str, ports: tuple[int, int], data: Path) -> None:
        security = self._security.server_properties(self.folder) if self._secure else {}
        write_whole(self.folder / name, server_properties(*ports, data.name, security), 0o600)

    def _launch(self, program: Sequence[str]) -> None:
        """Start the broker and wait until it serves; `_PortTakenError` if another program took a port first."""
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)  # libraries that a killed broker unpacked
        (self.folder / "tmp").mkdir()
        pid_path = self.folder / "server.pid"
        pid_path.unlink(missing_ok=True)
        self.log_path.touch(mode=0o600)
        said_before = self.log_path.stat().st_size
        alive = self._take_alive_lock()
        # The broker writes its own process id and is nobody's child: whoever is killed, it can be found and stopped.
        detached = ["/bin/sh", "-c", '"$@" &', "sh"]
        noted = ["/bin/sh", "-c", 'echo $$ >server.pid && exec "$@"', "sh"]
        command = [*detached, *noted, *program, "kafka.Kafka", "server.properties"]
        try:
            with (self.folder / "output").open("wb") as output:
                subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=self.folder,
                    env=_environment(),
                    start_new_session=True,
                    pass_fds=(alive,),
                    check=True,
                )
        finally:
            os.close(alive)  # closing, not unlocking: the server keeps its copy of the lock
        if self._wait_until_ready():
            return
        said = self._log_since(said_before) + (self.folder / "output").read_text(encoding="utf-8", errors="replace")
        if "Address already in use" in said:
            raise _PortTakenError
        raise BrokerError(f"the embedded Kafka didn't start: {_reason(said)}; see {self.log_path}")

    # State on disk

    def _program(self) -> list[str]:
        """Return the command that runs a main class of Kafka's, relative to our folder."""
        classpath = jars.resolve(jars.KAFKA_COORDINATES, self._jar_cache, self._progress)
        logging_option = "-Dlog4j2.configurationFile=log4j2.properties"
        return [str(java()), *JVM_FLAGS, logging_option, "-cp", ":".join(map(str, classpath))]

    def _ports(self) -> tuple[int, int] | None:
        """Return the ports of the broker and the controller that were used last."""
        try:
            broker, controller = map(int, (self.folder / "ports").read_text(encoding="ascii").split())
        except (OSError, ValueError):
            return None
        return broker, controller

    def _pid(self) -> int | None:
        try:
            return int((self.folder / "server.pid").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def _cluster_id(self) -> str:
        text = (self.data / "meta.properties").read_text(encoding="utf-8")
        found = re.search(r"^cluster\.id=(\S+)$", text, re.MULTILINE)
        if found is None:
            raise BrokerError(f"{self.data / 'meta.properties'} is damaged; remove {self.data} to start with no events")
        return found[1]

    def _log_since(self, offset: int) -> str:
        with self.log_path.open("rb") as file:
            file.seek(offset)
            return file.read().decode("utf-8", "replace")

    def _take_alive_lock(self) -> int:
        alive = open_lock(self.folder / "alive")
        fcntl.flock(alive, fcntl.LOCK_EX)  # only waits for others' momentary checks
        return alive

    # Is it ready?

    def _wait_until_ready(self) -> bool:
        """Wait for a live broker to serve; return False if it turns out to be dead."""
        deadline = time.monotonic() + _START_SECONDS
        while self.is_running():
            ports = self._ports()
            if ports is not None and _listens(ports[0]) and self._serves(ports[0]):
                return True
            if time.monotonic() > deadline:
                raise BrokerError(f"the embedded Kafka doesn't get ready; see {self.log_path}")
            time.sleep(0.05)
        return False

    def _serves(self, port: int) -> bool:
        """Tell whether our broker leads all partitions: an open port alone can still refuse every request."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        options: dict[str, Any] = {"bootstrap.servers": f"{HOST}:{port}", "log_level": 0, "error_cb": lambda _: None}
        if self._secure:
            login = self.admin()
            options |= {
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": MECHANISM,
                "ssl.ca.location": str(login.cafile),
            }
            options |= {"sasl.username": login.username, "sasl.password": login.password}
        try:
            metadata = AdminClient(options).list_topics(timeout=2)
        except KafkaException:
            return False
        partitions = [partition for topic in metadata.topics.values() for partition in topic.partitions.values()]
        has_leaders = all(partition.leader == NODE_ID for partition in partitions)
        return bool(metadata.brokers) and has_leaders and metadata.cluster_id == self._cluster_id()


@contextmanager
def running(
    home: Path, *, jar_cache: Path | None = None, progress: jars.Progress | None = None, secure: bool = False
) -> Iterator[Endpoint]:
    """Use the broker of `home`, started if need be; the last one out stops it unless it is kept up."""
    with EmbeddedBroker(home, jar_cache, progress, secure=secure).using() as endpoint:
        yield endpoint


def keep_up(home: Path, *, jar_cache: Path | None = None, progress: jars.Progress | None = None) -> Endpoint:
    """Start the broker of `home` and keep it up until `shut_down`, also across restarts by other commands."""
    return EmbeddedBroker(home, jar_cache, progress).keep_up()


def shut_down(home: Path) -> bool:
    """Stop the broker of `home` for good, whoever uses it; return whether it ran."""
    return EmbeddedBroker(home).shut_down()


def _new_cluster_id() -> str:
    """Make up an id in Kafka's form: 16 bytes in URL-safe base64, not beginning like an option."""
    while (name := base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")).startswith("-"):
        pass
    return name


def _free_ports() -> tuple[int, int]:
    for _ in range(_PORT_ATTEMPTS):
        broker, controller = free_port(), free_port()
        if broker is not None and controller is not None and broker != controller:
            return broker, controller
    raise BrokerError("no two ports are free for the embedded Kafka")


def _listens(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=2):
            return True
    except OSError:
        return False


def _environment() -> dict[str, str]:
    """Return our environment without what would change the JVM or Kafka from outside."""
    unwanted = ("JAVA_", "JDK_", "_JAVA_", "KAFKA_", "CLASSPATH")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}


def _reason(said: str) -> str:
    """Return the line of the broker's log or output that says best what went wrong."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if any("No space left on device" in line for line in lines):
        return "no space left on the device; free some and try again"
    causes = [line for line in lines if re.match(r"(Caused by: |Exception in thread |[\w.]+(Exception|Error): )", line)]
    grave = [line for line in lines if " ERROR " in line or " FATAL " in line]
    if any("Could not create the Java Virtual Machine" in line for line in lines):
        return lines[0].rstrip(".")  # it says least last
    return (causes or grave or lines or ["it gave no reason"])[-1].rstrip(".")
