"""Apicurio, the schema registry: downloaded once, and run as long as somebody needs it."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from helpers import free_ports
from servers import answering

from music_pulse.embedded.java import java

NAME, VERSION = "apicurio-registry-app", "3.3.3"
SHA256 = "8bc6751c76d963734224b01d5e7f84ccb3cb61c87d3bd77c36c35f10a5cbed63"
PATH = "/apis/ccompat/v7/subjects"
"""What it answers once it is up."""


@contextmanager
def running_registry(folder: Path, jar_cache: Path, variables: Mapping[str, str]) -> Iterator[str]:
    """Run one on 127.0.0.1 with these variables, in memory if they don't say otherwise; yield its address."""
    port, management = free_ports(2)
    flags = {
        "quarkus.http.host": "127.0.0.1",
        "quarkus.http.port": port,
        "quarkus.management.host": "127.0.0.1",
        "quarkus.management.port": management,
    }
    command = [str(java()), "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    command += [f"-D{name}={value}" for name, value in flags.items()]
    command += ["-jar", "quarkus-run.jar"]
    url = f"http://127.0.0.1:{port}"
    with answering(command, _unpacked(jar_cache), {url + PATH: 200}, variables=variables, log=folder / "registry.log"):
        yield url


def _unpacked(cache: Path) -> Path:
    """Return the folder of Apicurio, downloaded and unpacked if need be."""
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    folder = cache / f"{NAME}-{VERSION}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "registry.lock"):
        if not folder.exists():
            mirrors = GlobalSettings.load().repositories
            context = MavenContext(repo_cache=cache, remote_repos=mirrors or {"central": MAVEN_CENTRAL_URL})
            component = context.project("io.apicurio", NAME).at_version(VERSION)
            archive = component.artifact(classifier="all", packaging="tar.gz").resolve()
            with archive.open("rb") as file:
                assert hashlib.file_digest(file, "sha256").hexdigest() == SHA256
            partial = folder.with_suffix(".new")
            shutil.rmtree(partial, ignore_errors=True)
            with tarfile.open(archive) as tar:
                tar.extractall(partial, filter="data")
            partial.rename(folder)
            archive.unlink()
    return folder
