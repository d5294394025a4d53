"""Built marts of a small history, and an S3 server that refuses wrong secrets."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import MakeWarehouse, build, free_ports, listen, load

from music_pulse.settings import Settings

SUMMER = 1_561_939_200
"""2019-07-01T00:00:00Z."""
DAY = 86_400

HISTORY = [
    *[listen(SUMMER + hour * 3600, f"Track {hour % 5}", f"Artist {hour % 3}", ms=200_000) for hour in range(60)],
    *[listen(SUMMER + 40 * DAY + hour * 3600, "夜", "東京事変", album="教育", ms=240_000) for hour in range(9)],
    listen(SUMMER + 40 * DAY + 60, "שלום", "مرحبا", user="bob"),
    listen(SUMMER + 400 * DAY, "🎵", "İstanbul Trio", user="bob", ms=1),
]


class S3(NamedTuple):
    """A running S3 server."""

    endpoint: str
    key: str
    secret: str


@pytest.fixture(scope="module")
def marts(make_warehouse: MakeWarehouse, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A database with the marts of `HISTORY`."""
    folder = tmp_path_factory.mktemp("export")
    settings = make_warehouse(export_dir=str(folder / "warehouse"))
    load(settings, tmp_path_factory.mktemp("loads"), HISTORY)
    build(settings)
    return settings


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """SeaweedFS on 127.0.0.1, from its wheel, with a bucket `pulse`."""
    folder = tmp_path_factory.mktemp("s3")
    identity = {
        "name": "pulse",
        "credentials": [{"accessKey": "pulse-key", "secretKey": "pulse-secret"}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = folder / "identities.json"
    config.write_text(json.dumps({"identities": [identity]}))
    names = ("master", "volume", "filer", "s3")
    ports = dict(zip([*names, *(f"{name}.grpc" for name in names)], free_ports(8), strict=True))
    command = [str(Path(sys.executable).with_name("weed")), "server", f"-dir={folder}", "-ip=127.0.0.1"]
    command += ["-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.config={config}", "-master.volumeSizeLimitMB=64"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # their ports are fixed: another worker's may have them
    command += ["-master.telemetry=false"]
    command += [f"-{name}.localSocket={folder / name}.sock" for name in ("filer", "s3")]
    for name in names:
        command += [f"-{name}.port={ports[name]}", f"-{name}.port.grpc={ports[f'{name}.grpc']}"]
    endpoint = f"http://127.0.0.1:{ports['s3']}"
    log = (folder / "log.txt").open("wb")
    with log, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder) as server:
        try:
            _wait_for(endpoint, server, folder / "log.txt")
            _make_bucket(endpoint)
            yield S3(endpoint, "pulse-key", "pulse-secret")
        finally:
            server.kill()  # it takes half a minute to leave by itself, and its folder goes anyway
            server.wait(30)


def _wait_for(endpoint: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(endpoint, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return  # it answers: anonymous access is refused
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(log.read_text(errors="replace")[-2000:])


def _make_bucket(endpoint: str) -> None:
    import s3fs

    filesystem = s3fs.S3FileSystem(key="pulse-key", secret="pulse-secret", endpoint_url=endpoint)
    deadline = time.monotonic() + 60
    while True:  # the volume server joins a moment after the gateway answers
        try:
            filesystem.mkdir("pulse")
            filesystem.pipe_file("pulse/probe", b"x")
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
