"""What the two client libraries log goes to our log at level DEBUG.

They report every passing hiccup as an error, on stderr; what matters of it, we raise.
"""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


class LibrdkafkaLog:
    """What confluent-kafka takes as its `logger`."""

    def log(self, level: int, message: str, *args: object) -> None:
        """Log, whatever `level` says."""
        log.debug(message, *args)


class _KafkaPythonHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log.debug("%s: %s", record.name, record.getMessage(), exc_info=record.exc_info)


def keep_quiet() -> None:
    """Take over the log of kafka-python; doing it again changes nothing."""
    theirs = logging.getLogger("kafka")
    theirs.propagate = False
    if not any(isinstance(handler, _KafkaPythonHandler) for handler in theirs.handlers):
        theirs.addHandler(_KafkaPythonHandler())
