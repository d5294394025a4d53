"""`pulse doctor`: looks at each part and says how to mend it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from music_pulse.errors import PulseError
from music_pulse.settings import PROJECT_ROOT, Role, Settings

MIN_FREE_BYTES = 1_000_000_000

_PACKAGES = ("dlt", "dbt-core", "dbt-postgres", "pyarrow", "psycopg", "adbc-driver-postgresql")


class Finding(NamedTuple):
    """What one check found; `mend` says what to do, and is empty where all is well."""

    part: str
    text: str
    mend: str = ""
    is_fatal: bool = True


def check_all(settings: Settings, show: Callable[[str], None]) -> bool:
    """Run every check and show its finding; return whether nothing is broken."""
    is_well = True
    for check in (_python, _packages, _project, _home, _disk, _postgres, _listenbrainz):
        finding = check(settings)
        mark = "ok" if not finding.mend else "!!" if finding.is_fatal else "--"
        show(f"{mark}  {finding.part:<14}{finding.text}")
        if finding.mend:
            show(f"    {'':<14}-> {finding.mend}")
            is_well = is_well and not finding.is_fatal
    return is_well


def _python(_: Settings) -> Finding:
    text = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    return Finding("python", text, "" if good else "use Python 3.11, 3.12 or 3.13: make clean setup PYTHON=python3.12")


def _packages(_: Settings) -> Finding:
    found, missing = [], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    return Finding("packages", ", ".join(found), f"missing {', '.join(missing)}: make setup" if missing else "")


def _project(_: Settings) -> Finding:
    good = (PROJECT_ROOT / "dbt_project" / "dbt_project.yml").is_file() and (PROJECT_ROOT / "profiles.yml").is_file()
    return Finding("dbt project", str(PROJECT_ROOT), "" if good else "run pulse from an installed checkout: make setup")


def _home(settings: Settings) -> Finding:
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        probe = settings.home / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        return Finding("PULSE_HOME", str(settings.home), f"{error.strerror}: set PULSE_HOME to a folder of yours")
    return Finding("PULSE_HOME", str(settings.home))


def _disk(settings: Settings) -> Finding:
    try:
        free = shutil.disk_usage(settings.home).free
    except OSError as error:
        return Finding("disk", str(error.strerror), "make PULSE_HOME reachable")
    mend = "" if free > MIN_FREE_BYTES else "free some space, or move PULSE_HOME"
    return Finding("disk", f"{free / 1e9:.1f} GB free", mend)


def _postgres(settings: Settings) -> Finding:
    from music_pulse.database import connect
    from music_pulse.stack import warehouse

    try:
        with warehouse(settings) as filled:
            roles: tuple[Role, ...] = ("loader", "transformer", "reader")
            for login in map(filled.credentials, roles):
                with connect(login) as connection:
                    row = connection.execute("select current_setting('server_version')").fetchone()
            text = f"{row[0] if row else ''} on {filled.postgres_host}:{filled.postgres_port}, all three roles log in"
            return Finding("postgres", text)
    except PulseError as error:
        mend = "see logs/ in PULSE_HOME" if settings.target == "embedded" else "check the PULSE_POSTGRES_* settings"
        return Finding("postgres", str(error), mend)


def _listenbrainz(settings: Settings) -> Finding:
    from extract.listenbrainz.client import ListenBrainzClient

    try:
        with ListenBrainzClient(
            settings.listenbrainz_url,
            connect_timeout=min(settings.listenbrainz_connect_timeout, 5),
            read_timeout=min(settings.listenbrainz_read_timeout, 15),
            attempts=1,
        ) as client:
            count = client.listen_count(settings.listenbrainz_user)
    except PulseError as error:
        mend = "check the network and PULSE_LISTENBRAINZ_URL; files and the demo work without it"
        return Finding("listenbrainz", str(error), mend, is_fatal=False)
    return Finding("listenbrainz", f"answers: {settings.listenbrainz_user} has {count:,} listens")
