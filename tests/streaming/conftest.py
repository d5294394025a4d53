"""One Kafka broker for the whole session; tests keep apart by topics and groups of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from music_pulse.embedded import broker as embedded
from music_pulse.embedded.broker import Endpoint


@pytest.fixture(scope="module", autouse=True)
def _java_of_short_life() -> Iterator[None]:
    """Compile once, not well: a JVM of our tests lives for half a minute. Stacks are deeper so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -Xss4m")
        yield


@pytest.fixture(scope="session")
def jar_cache() -> Path:
    """A folder that all sessions share, so that each jar is downloaded once."""
    return Path(__file__).resolve().parents[2] / ".cache" / "jars"


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory, jar_cache: Path) -> Iterator[Endpoint]:
    """An embedded broker that runs as long as the session does; each worker has its own."""
    home = tmp_path_factory.mktemp("kafka")
    with embedded.running(home, jar_cache=jar_cache) as endpoint:
        yield endpoint
    embedded.shut_down(home)
