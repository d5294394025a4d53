"""Maven coordinates -> jars in a folder: what Kafka and Spark's connectors run from.

`jars.lock` beside this file names every jar, transitive ones included, with its SHA-256: nothing has to be worked
out at the user's, what is downloaded is what was tried, and a damaged or half-written cache is noticed and mended.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import tomllib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from music_pulse.errors import DownloadError

KAFKA_COORDINATES = ("org.apache.kafka:kafka_2.13:4.3.1", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4")
"""The broker, and the logging that can bound its log file."""

SPARK_COORDINATES = (
    "org.apache.spark:spark-sql-kafka-0-10_2.13:4.1.3",
    "org.apache.spark:spark-token-provider-kafka-0-10_2.13:4.0.0",
    "org.apache.spark:spark-avro_2.13:4.1.1",
    "org.apache.kafka:kafka-clients:3.9.1",
    "org.apache.commons:commons-pool2:2.12.1",
)
"""Spark's connectors to Kafka and Avro with what pyspark lacks of their dependencies: the newest to be had of each."""

LOCK_PATH = Path(__file__).with_name("jars.lock")

Progress = Callable[[int, int, str], None]
"""Called with the number of jars that are there, their total, and the name of the last one."""

_DOWNLOADS = 4


def resolve(coordinates: Sequence[str], cache: Path, progress: Progress | None = None) -> list[Path]:
    """Return the jars of `coordinates` (one of the constants above), whole, downloading those that `cache` lacks.

    Once all are there no network is needed. `progress` is only called when something is downloaded; two processes
    share one download. Raises `DownloadError`.
    """
    cache = cache.expanduser().absolute()
    checksums = locked(coordinates)
    try:
        if _missing(checksums, cache):
            _mend(checksums, cache, progress)
    except OSError as error:
        where = error.filename or cache
        raise DownloadError(f"can't keep jars in {where}: {error.strerror}; set PULSE_JAR_CACHE") from error
    return [cache / path_of(coordinate) for coordinate in checksums]


def locked(coordinates: Sequence[str]) -> Mapping[str, str]:
    """Return coordinate and SHA-256 of every jar that `coordinates` need."""
    try:
        return _lock()[" ".join(coordinates)]
    except KeyError:
        raise DownloadError(
            f"{LOCK_PATH.name} doesn't know {', '.join(coordinates)}; run `python -m music_pulse.embedded.jar_lock`"
        ) from None


def path_of(coordinate: str) -> Path:
    """Return where the jar of a coordinate (group:artifact:version) lies inside a cache."""
    group, artifact, version = coordinate.split(":")
    return Path(*group.split("."), artifact, version, f"{artifact}-{version}.jar")


def download(coordinate: str, folder: Path) -> Path:
    """Download one jar into `folder`, laid out like a Maven repository; raises `DownloadError`."""
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext
    from requests import RequestException

    # A mirror that the user's own jgo configuration names comes instead of the public repository.
    mirrors = GlobalSettings.load().repositories
    context = MavenContext(repo_cache=folder, remote_repos=mirrors or {"central": MAVEN_CENTRAL_URL})
    try:
        return Path(context.create_dependency(coordinate).artifact.resolve())
    except (RequestException, RuntimeError) as error:
        raise DownloadError(
            f"can't download {coordinate}: {_reason(error)}; check the network (HTTPS_PROXY, REQUESTS_CA_BUNDLE) or"
            " set PULSE_JAR_CACHE to a folder that has the jars, then run again"
        ) from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _lock() -> Mapping[str, Mapping[str, str]]:
    return tomllib.loads(LOCK_PATH.read_text(encoding="utf-8"))


def _missing(checksums: Mapping[str, str], cache: Path) -> list[str]:
    return [name for name, checksum in checksums.items() if not _is_whole(cache / path_of(name), checksum)]


def _is_whole(path: Path, checksum: str) -> bool:
    try:
        return sha256(path) == checksum
    except FileNotFoundError:
        return False


def _mend(checksums: Mapping[str, str], cache: Path, progress: Progress | None) -> None:
    """Download what is missing or damaged, several at a time."""
    from filelock import FileLock

    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "lock"):
        missing = _missing(checksums, cache)  # another process may have been faster
        done = len(checksums) - len(missing)
        partial = cache / "partial"
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed here
        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            running = {pool.submit(_fetch, name, checksums[name], partial, cache): name for name in missing}
            try:
                for future in as_completed(running):
                    future.result()
                    done += 1
                    if progress:
                        progress(done, len(checksums), path_of(running[future]).name)
            finally:
                pool.shutdown(cancel_futures=True)
        shutil.rmtree(partial, ignore_errors=True)


def _fetch(coordinate: str, checksum: str, partial: Path, cache: Path) -> None:
    fetched = download(coordinate, partial)
    if (found := sha256(fetched)) != checksum:
        raise DownloadError(
            f"{fetched.name} has SHA-256 {found[:16]}… and not {checksum[:16]}…: something between here and the"
            " repository changed it; check the proxy or the mirror"
        )
    path = cache / path_of(coordinate)
    path.parent.mkdir(parents=True, exist_ok=True)
    fetched.replace(path)


def _reason(error: Exception) -> str:
    from requests import ConnectionError as NoConnectionError
    from requests import Timeout

    if isinstance(error, Timeout):
        return "no answer in time"
    if isinstance(error, NoConnectionError):
        return "no connection"
    return "the repository doesn't have it" if isinstance(error, RuntimeError) else type(error).__name__
