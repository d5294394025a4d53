"""The life of an embedded server, state under a folder of home: any number of commands at once, any of them killed.

Three lock files make that safe:

* `lock`: held exclusively while something is initialised, started or stopped.
* `users`: held shared by every command that uses the server; who gets it exclusively was the last one.
* `alive`: held exclusively by the server itself, which inherits the open file. A process id can be that
  of a stranger after a crash; this lock is free if, and only if, no process of the server lives.

The kernel drops all three when their holder dies, however it dies.
"""

from __future__ import annotations

import fcntl
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from music_pulse.embedded.plumbing import is_locked, open_lock, try_lock
from music_pulse.errors import PulseError

log = logging.getLogger(__name__)

E = TypeVar("E")
"""Where a server listens."""


class EmbeddedServer(ABC, Generic[E]):
    """The server of one home folder. Nothing is started before `start`; all paths are absolute.

    Every method that acts raises `failure` (or `ConfigurationError` for a home that can't work).
    """

    title: ClassVar[str]
    failure: ClassVar[type[PulseError]]

    def __init__(self, home: Path, name: str) -> None:
        self.home = home.expanduser().absolute()
        self.folder = self.home / name
        self.log_path = self.home / "logs" / f"{name}.log"

    @abstractmethod
    def endpoint(self) -> E:
        """Return where the running server listens; `failure` if it doesn't run."""

    @abstractmethod
    def _start(self, lock: int) -> E:
        """Start unless it runs, and wait until it is ready; `lock` (a descriptor) is held."""

    @abstractmethod
    def _stop(self) -> bool:
        """Stop if it runs, whoever uses it, and wait; the lock is held."""

    def start(self) -> E:
        """Start the server unless it runs, initialising it the first time; return where it listens."""
        with self._failures(), self._exclusive() as lock:
            return self._start(lock)

    def stop(self) -> bool:
        """Stop the server, whoever uses it; return whether there was one to stop."""
        if not self.folder.is_dir():
            return False
        with self._failures(), self._exclusive():
            return self._stop()

    def is_running(self) -> bool:
        """Tell whether a process of the server lives (it may still be starting)."""
        return is_locked(self.folder / "alive")

    @contextmanager
    def using(self) -> Iterator[E]:
        """Start the server if need be; at exit stop it unless it is kept up or somebody else uses it."""
        with self._failures():
            self._make_folders()
            users = open_lock(self.folder / "users")
        try:
            try:
                with self._failures(), self._exclusive() as lock:
                    fcntl.flock(users, fcntl.LOCK_SH)
                    endpoint = self._start(lock)
                yield endpoint
            finally:
                with self._failures(), self._exclusive():
                    if try_lock(users) and not self._keep_path.exists():
                        self._stop()
                    fcntl.flock(users, fcntl.LOCK_UN)  # a forked child may still hold a copy of the file
        finally:
            os.close(users)

    def keep_up(self) -> E:
        """Start the server and keep it up, beyond this command and any other, until `shut_down`."""
        with self._failures(), self._exclusive() as lock:
            endpoint = self._start(lock)
            self._keep_path.touch()
            return endpoint

    def shut_down(self) -> bool:
        """Undo `keep_up` and stop the server, whoever uses it; return whether it ran."""
        if not self.folder.is_dir():
            return False
        with self._failures(), self._exclusive():
            self._keep_path.unlink(missing_ok=True)
            return self._stop()

    @property
    def _keep_path(self) -> Path:
        return self.folder / "keep"

    def _make_folders(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.log_path.parent.mkdir(exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)

    @contextmanager
    def _exclusive(self) -> Iterator[int]:
        self._make_folders()
        descriptor = open_lock(self.folder / "lock")
        try:
            if not try_lock(descriptor):
                log.info("waiting for another command that starts or stops the embedded %s", self.title)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn what the file system refuses into a `failure` of one line."""
        try:
            yield
        except OSError as error:
            where, reason = error.filename or self.folder, error.strerror or "it gave no reason"
            if "No space left on device" in reason:
                reason = "no space left on the device; free some and try again"
            raise self.failure(f"the embedded {self.title} can't use {where}: {reason}") from error
