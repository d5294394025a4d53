"""Which of dbt's events are written out. For dbt's own process."""

from __future__ import annotations

from typing import Any


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
