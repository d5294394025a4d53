"""What our own dbt process leaves out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO

import pytest
from dbt_common.events import logger
from dbt_common.events.base_types import EventLevel
from dbt_common.events.event_manager import EventManager
from dbt_common.events.types import Note
from dbt_common.utils.encoding import JSONEncoder
from mashumaro import DataClassDictMixin
from mashumaro.config import BaseConfig

from music_pulse.dbt_process import compile_when_used, encode_whole, spared


@pytest.mark.parametrize(
    ("level", "wanted", "heard"),
    [
        (EventLevel.INFO, (), ["info", "error"]),
        (EventLevel.DEBUG, (), ["debug", "info", "error"]),
        (EventLevel.INFO, ("Note",), ["debug", "info", "error"]),
    ],
)
def test_an_event_of_debug_is_made_where_somebody_hears_it(
    level: EventLevel, wanted: tuple[str, ...], heard: list[str]
) -> None:
    output, made = StringIO(), []
    events = EventManager()
    line_format = logger.LineFormat.Json
    events.add_logger(logger.LoggerConfig("ours", level=level, line_format=line_format, output_stream=output))
    events.add_callback(lambda event: made.append(event.info.level))
    with spared(wanted):
        for said in (EventLevel.DEBUG, EventLevel.INFO, EventLevel.ERROR):
            events.fire_event(Note(msg=said.value), level=said)
    assert made == heard
    lines = [json.loads(line)["info"]["msg"] for line in output.getvalue().splitlines()]
    assert lines == [one for one in heard if one != "debug" or level == EventLevel.DEBUG]


def test_what_is_logged_stays_and_no_line_is_made_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a logger that wants all, as dbt's file is beside its console."""
    outputs, made = {EventLevel.INFO: StringIO(), EventLevel.DEBUG: StringIO()}, []
    create = logger._JsonLogger.create_line
    monkeypatch.setattr(
        logger._JsonLogger, "create_line", lambda self, event: made.append(event) or create(self, event)
    )
    events = EventManager()
    line_format = logger.LineFormat.Json
    for level, output in outputs.items():
        config = logger.LoggerConfig(level.value, level=level, line_format=line_format, output_stream=output)
        events.add_logger(config)
    with spared():
        for level in (EventLevel.DEBUG, EventLevel.INFO, EventLevel.ERROR):
            events.fire_event(Note(msg=f"said as {level.value}"), level=level)
    lines = [json.loads(line)["info"]["msg"] for line in outputs[EventLevel.INFO].getvalue().splitlines()]
    assert lines == ["said as info", "said as error"]
    assert len(outputs[EventLevel.DEBUG].getvalue().splitlines()) == 3
    assert len(made) == 2 + 3


def test_it_spares_only_while_dbt_runs() -> None:
    before = (EventManager.fire_event, logger._Logger.write_line, json.dump)
    with pytest.raises(RuntimeError), spared():
        now = (EventManager.fire_event, logger._Logger.write_line, json.dump)
        assert all(one is not other for one, other in zip(now, before, strict=True))
        raise RuntimeError
    assert (EventManager.fire_event, logger._Logger.write_line, json.dump) == before


def test_json_is_written_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"a": [1, 2.5, None, True, "\u00e9\n"], "b": {"c": Decimal("1.5"), "d": datetime(2026, 1, 1, tzinfo=UTC)}}
    before, after = StringIO(), StringIO()
    json.dump(value, before, cls=JSONEncoder)
    monkeypatch.setattr(json, "dump", json.dump)  # put back afterwards
    encode_whole()
    json.dump(value, after, cls=JSONEncoder)
    assert after.getvalue() == before.getvalue()


def test_classes_read_and_write_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BaseConfig, "lazy_compilation", BaseConfig.lazy_compilation)  # put back afterwards
    compile_when_used()

    @dataclass
    class Node(DataClassDictMixin):
        name: str
        depends_on: list[int]

    made = vars(Node)["__mashumaro_to_dict__"]
    node = Node.from_dict({"name": "tracks", "depends_on": ["1"]})
    assert node.to_dict() == {"name": "tracks", "depends_on": [1]}
    assert vars(Node)["__mashumaro_to_dict__"] is not made
