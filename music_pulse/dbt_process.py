"""What spares dbt work of which nothing is seen."""

from __future__ import annotations

import json
import logging
from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import Any, TextIO


def compile_when_used() -> None:
    """Let dataclasses get their methods of (de)serialization when they are first called.

    For dbt's own process, before dbt is imported.

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


def drop_unheard(wanted: Container[str]) -> None:
    """Let dbt make no event of level debug that no logger writes, unless its name is among those `wanted` by callbacks.

    It puts each together and drops it then, a quarter of a build's own time: nine in ten are debug messages.
    """
    from dbt_common.events.base_types import EventLevel
    from dbt_common.events.event_manager import EventManager

    fire = EventManager.fire_event

    def fire_event(self: EventManager, e: Any, level: Any = None, *rest: Any, **options: Any) -> None:
        is_debug = (level or e.level_tag()) in (EventLevel.DEBUG, EventLevel.TEST)
        if is_debug and type(e).__name__ not in wanted and not any(map(_writes_debug, self.loggers)):
            return
        fire(self, e, level, *rest, **options)

    EventManager.fire_event = fire_event  # type: ignore[method-assign]


def _writes_debug(logger: Any) -> bool:
    return logger._python_logger is not None and logger._python_logger.isEnabledFor(logging.DEBUG)


def drop_unlogged() -> None:
    """Let each of dbt's loggers look at an event's level first: it makes a line of it and drops that then."""
    from dbt_common.events import logger
    from dbt_common.events.base_types import EventLevel

    write: Any = logger._Logger.write_line

    def write_line(self: Any, event: Any) -> None:
        level = logger._log_level_map[EventLevel(event.info.level)]
        if self._python_logger and (self._python_logger.isEnabledFor(level) or logger._is_print_event(event)):
            write(self, event)

    logger._Logger.write_line = write_line  # type: ignore[assignment, method-assign]


@contextmanager
def spared(wanted: Container[str] = ()) -> Iterator[None]:
    """Spare dbt events unheard, lines unlogged and JSON by pieces while it runs; the process may go on without it."""
    from dbt_common.events.event_manager import EventManager
    from dbt_common.events.logger import _Logger

    before = EventManager.fire_event, _Logger.write_line, json.dump
    drop_unheard(wanted)
    drop_unlogged()
    encode_whole()
    try:
        yield
    finally:
        EventManager.fire_event, _Logger.write_line, json.dump = before  # type: ignore[method-assign]
