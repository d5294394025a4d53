"""What dbt's loggers write out, in our own dbt process."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from dbt_common.events import logger
from dbt_common.events.base_types import EventLevel
from dbt_common.events.event_manager import EventManager
from dbt_common.events.types import Note

from music_pulse.dbt_events import drop_unlogged


def test_what_is_logged_stays_and_no_line_is_made_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger._Logger, "write_line", logger._Logger.write_line)  # put back afterwards
    drop_unlogged()
    output, made = StringIO(), []
    create = logger._JsonLogger.create_line
    monkeypatch.setattr(
        logger._JsonLogger, "create_line", lambda self, event: made.append(event) or create(self, event)
    )
    events = EventManager()
    line_format = logger.LineFormat.Json
    events.add_logger(logger.LoggerConfig("ours", level=EventLevel.INFO, line_format=line_format, output_stream=output))
    for level in (EventLevel.DEBUG, EventLevel.INFO, EventLevel.ERROR):
        events.fire_event(Note(msg=f"said as {level.value}"), level=level)
    lines = [json.loads(line)["info"]["msg"] for line in output.getvalue().splitlines()]
    assert lines == ["said as info", "said as error"]
    assert len(made) == 2
