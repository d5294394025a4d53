"""Others' servers for tests: on 127.0.0.1, waited for, and ended by their own handle."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests
from helpers import free_ports

_PATIENCE_SECONDS = 120

SEAWEEDFS = ("master", "volume", "filer", "s3")
"""The servers within one SeaweedFS, each of which has ports."""


def code_of(url: str) -> int | None:
    """Return with what a server answers; nothing where it doesn't."""
    try:
        return requests.get(url, timeout=5).status_code
    except (requests.ConnectionError, requests.Timeout):
        return None


@contextmanager
def answering(
    words: Sequence[str | Path],
    folder: Path,
    answers: Mapping[str, int],
    *,
    variables: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Iterator[None]:
    """Run a server in `folder` until the block ends; it begins once all addresses answer with their codes."""
    log = log or folder / "log.txt"
    with log.open("wb") as output:
        environment = {**os.environ, **(variables or {})}
        process = subprocess.Popen(words, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while any(code_of(url) != code for url, code in answers.items()):
            said = log.read_text(errors="replace")[-2000:]
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.2)
        yield
    finally:
        process.kill()  # SeaweedFS takes half a minute to leave by itself, and what a server keeps goes anyway
        process.wait(30)


def seaweedfs_ports() -> dict[str, int]:
    """Return free ports by the options that name them, without `-`."""
    options = [f"{name}.port{kind}" for name in SEAWEEDFS for kind in ("", ".grpc")]
    return dict(zip(options, free_ports(len(options)), strict=True))


def seaweedfs_options(folder: Path, ports: Mapping[str, int]) -> list[str]:
    """Return what keeps a SeaweedFS to its folder and these ports: beside `-ip.bind`, which the caller knows."""
    options = {
        "ip": "127.0.0.1",
        "s3.port.iceberg": 0,  # fixed ports: another worker's server may have them
        "s3.port.lance": 0,
        "master.telemetry": "false",
        "filer.localSocket": folder / "filer.sock",
        "s3.localSocket": folder / "s3.sock",
        **ports,
    }
    return [f"-{name}={value}" for name, value in options.items()]
