"""Built marts of a small history, and an S3 server that refuses wrong secrets."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import MakeWarehouse, build, listen, load
from servers import answering, seaweedfs_options, seaweedfs_ports

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
    ports = seaweedfs_ports()
    words = [Path(sys.executable).with_name("weed"), "server", f"-dir={folder}", "-ip.bind=127.0.0.1", "-filer", "-s3"]
    words += [f"-s3.config={config}", "-master.volumeSizeLimitMB=64", *seaweedfs_options(folder, ports)]
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    with answering(words, folder, {f"{endpoint}/": 403}):  # anonymous access is refused
        _make_bucket(endpoint)
        yield S3(endpoint, "pulse-key", "pulse-secret")


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
