"""The examples are run: those of the guide against a broker, those of the docstrings as doctests."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from music_pulse.embedded.broker import Endpoint
from music_pulse.settings import Settings

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "streaming-client.md"


def test_the_examples_of_the_guide_run(broker: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block.replace("127.0.0.1:9092", broker.bootstrap), names)
    assert len(blocks) == 8
    said = capsys.readouterr().out
    assert "1 an event to listens was not delivered" in said
    assert "b'rob' b'" in said
    assert len(names["rows"]) == sum(names["offsets"].values()) > 0


def test_the_guide_names_only_settings_that_there_are() -> None:
    named = set(re.findall(r"PULSE_([A-Z_]+[A-Z])", GUIDE.read_text(encoding="utf-8")))
    assert {name.lower() for name in named} - {"kafka"} <= set(Settings.model_fields)


@pytest.mark.parametrize("module", ["rate", "backoff", "serializers"])
def test_the_examples_of_the_docstrings_are_true(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"streaming.client.{module}"))
    assert result.attempted
    assert not result.failed
