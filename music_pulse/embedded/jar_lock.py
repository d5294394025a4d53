"""Work out every jar that Kafka and Spark's connectors need, and write `jars.lock`. For developers.

Run it after changing a coordinate: python -m music_pulse.embedded.jar_lock
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from music_pulse.embedded.jars import KAFKA_COORDINATES, LOCK_PATH, SPARK_COORDINATES, download, sha256

_HEADER = """\
# Every jar with its SHA-256. Written by `python -m music_pulse.embedded.jar_lock`; see jars.py.
"""


def write_lock() -> None:
    """Write `jars.lock` anew. Takes a minute and a network."""
    with tempfile.TemporaryDirectory() as folder:
        tables = [
            _table(KAFKA_COORDINATES, _with_dependencies(KAFKA_COORDINATES, Path(folder)), Path(folder)),
            _table(SPARK_COORDINATES, SPARK_COORDINATES, Path(folder)),
        ]
    LOCK_PATH.write_text("\n".join([_HEADER, *tables]), encoding="utf-8")


def _with_dependencies(coordinates: Sequence[str], folder: Path) -> list[str]:
    from jgo.maven import MavenContext

    context = MavenContext(repo_cache=folder)
    # "!": the versions that a jar's own project manages (log4j's tests use an old Kafka) aren't for the others.
    wanted, transitive = context.resolver.resolve([context.create_dependency(f"{name}!") for name in coordinates])
    found = [*wanted, *(one for one in transitive if one.scope in ("compile", "runtime"))]
    return [f"{one.groupId}:{one.artifactId}:{one.version}" for one in found]


def _table(coordinates: Sequence[str], names: Iterable[str], folder: Path) -> str:
    lines = [f'"{name}" = "{sha256(download(name, folder))}"' for name in sorted(set(names))]
    return "\n".join([f'["{" ".join(coordinates)}"]', *lines, ""])


if __name__ == "__main__":
    write_lock()
