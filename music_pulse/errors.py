"""The errors that a user can act on: one line that says what happened and what to do."""

from __future__ import annotations


class PulseError(Exception):
    """An expected failure. Its text is one line for a person; the command ends with `exit_code`."""

    exit_code = 1


class ConfigurationError(PulseError):
    """A setting, or a pair of settings, that can't work."""

    exit_code = 2


class InputError(PulseError):
    """A file or an argument that isn't what it should be."""

    exit_code = 2


class DatabaseError(PulseError):
    """The database can't be reached, is full, or refused a statement."""

    exit_code = 3


class ExternalAPIError(PulseError):
    """An external API failed for good (after the retries).

    `url` is the request's address, `status` its HTTP status (None when there was no answer).
    """

    exit_code = 4

    def __init__(self, message: str, *, url: str, status: int | None = None) -> None:
        super().__init__(message)
        self.url = url
        self.status = status


class DownloadError(PulseError):
    """Something that a first start downloads (the jars of Kafka and Spark) can't be had."""

    exit_code = 4


class BrokerError(PulseError):
    """The embedded Kafka broker doesn't start, stop or work here."""

    exit_code = 6


class UnreachableAPIError(ExternalAPIError):
    """No connection to the API could be made at all (no network, wrong address)."""


class UnknownUserError(ExternalAPIError):
    """The API has no user of that name."""


class StoppedError(PulseError):
    """Somebody pressed Ctrl-C."""

    exit_code = 130


class BuildError(PulseError):
    """dbt failed to build or to test; its own output, above, names the models."""

    exit_code = 5


class ReconciliationError(PulseError):
    """A reconciliation that did not end: the API failed, or so much is gone that a person should confirm it."""

    exit_code = 7


class AirflowError(PulseError):
    """The local Airflow doesn't start, or has ended by itself."""

    exit_code = 8


class QualityError(PulseError):
    """A check of the data found something that a person should look at."""

    exit_code = 9


def forget_caught_interrupt() -> None:
    """Let a process that has caught Ctrl-C end with the exit code it chose.

    CPython notes a `KeyboardInterrupt` that leaves a text run by `exec` (the class of a dataclass, while modules are
    being imported), caught or not, and `python -m` then ends by the signal; the next `exec` clears the note
    (`_Py_UnhandledKeyboardInterrupt` in Python/pythonrun.c).
    """
    exec("")  # noqa: S102
