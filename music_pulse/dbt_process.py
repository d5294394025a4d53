"""What spares dbt work of which nothing is seen. For dbt's own process."""

from __future__ import annotations

import json
from typing import Any, TextIO


def compile_when_used() -> None:
    """Let dataclasses get their methods of (de)serialization when they are first called; before dbt is imported.

    mashumaro makes them with the class otherwise, some for hundreds of classes that a build never writes or reads: a
    quarter of dbt's import. dbt sets the same for most of its own.
    """
    from mashumaro.config import BaseConfig

    BaseConfig.lazy_compilation = True


def encode_whole() -> None:
    """Let `json.dump` make its text in one go.

    It goes piece by piece through Python otherwise, for dbt's manifest of a few MB some ten times as slow as `dumps`.
    """

    def dump(value: Any, file: TextIO, **options: Any) -> None:
        file.write(json.dumps(value, **options))

    json.dump = dump  # type: ignore[assignment]


def drop_unlogged() -> None:
    """Let dbt's loggers look at an event's level first.

    They make a line of JSON of each and drop it then, a seventh of dbt's own time: nine in ten are debug messages.
    """
    from dbt_common.events import logger
    from dbt_common.events.base_types import EventLevel

    write: Any = logger._Logger.write_line

    def write_line(self: Any, event: Any) -> None:
        level = logger._log_level_map[EventLevel(event.info.level)]
        if self._python_logger and (self._python_logger.isEnabledFor(level) or logger._is_print_event(event)):
            write(self, event)

    logger._Logger.write_line = write_line  # type: ignore[assignment, method-assign]
