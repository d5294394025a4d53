"""What docker-compose.yml, deploy/ and monitoring/ name, the code has: no container engine is needed to see that."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import typer
import yaml
from compose import COMPOSE, DEFAULT_PORTS, ROOT, SERVICES
from helpers import free_ports

from music_pulse.airflow import HEALTH
from music_pulse.cli import app
from music_pulse.embedded import jars
from music_pulse.embedded.jars import KAFKA_COORDINATES
from music_pulse.embedded.java import java
from music_pulse.settings import Settings

OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("music-pulse")}
AIRFLOW = {name: service for name, service in SERVICES.items() if name.startswith("airflow-")}
SPARK = {name: service for name, service in SERVICES.items() if name.startswith("spark-")}
LASTING = {name: service for name, service in SERVICES.items() if service.get("restart") != "no"}
ALERTS = yaml.safe_load((ROOT / "monitoring" / "alerts.yml").read_text())["groups"][0]["rules"]


def environment(service: dict[str, Any]) -> list[tuple[str, Any]]:
    return list(service.get("environment", {}).items())


def test_compose_is_valid_by_the_compose_specification() -> None:
    schema = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text())
    jsonschema.validate(COMPOSE, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"services": {"one": {"imago": "misspelt"}}}, schema)


def test_what_starts_by_itself_is_what_is_essential() -> None:
    started = {name for name, service in SERVICES.items() if not service.get("profiles")}
    assert started == {"postgres", "kafka", "spark-master", "spark-worker", "trending", "sink", "serving"}
    for name, service in SERVICES.items():
        profiles = set(service.get("profiles", []))
        for other in service.get("depends_on", {}):
            assert set(SERVICES[other].get("profiles", [])) <= profiles, f"{name} waits for {other}, which isn't there"


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_pinned_bounded_and_not_root(name: str) -> None:
    service = SERVICES[name]
    version = r":(v?\d+(\.\d+)+[^:]*|\$\{PULSE_VERSION:-latest\})$"
    assert re.search(version, service["image"]), "an image without a version"
    assert service["mem_limit"], "no limit of memory"
    assert service["cpus"], "no limit of processors"
    assert service["user"].split(":")[0] not in ("root", "0")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def served(name: str) -> set[str]:
    """Return the ports on which a service listens, by its words, variables, or its image's default."""
    service = SERVICES[name]
    variables = service.get("environment", {})
    words = " ".join([*service.get("command", []), str(variables.get("KAFKA_LISTENERS"))])
    own = {variables.get("AIRFLOW__API__PORT"), DEFAULT_PORTS.get(name)}
    return {*re.findall(r"(?:^|[ :=])(\d{4,5})\b", words), *own} - {None}


@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_has_a_health_check_and_publishes_ports_that_it_serves(name: str) -> None:
    service = SERVICES[name]
    check = " ".join(service["healthcheck"]["test"])
    asked = re.findall(r"localhost:(\d+)", check) + [port.split(":")[-1] for port in service.get("ports", [])]
    assert set(asked) <= served(name)


def test_addresses_of_one_service_in_another_are_where_it_serves() -> None:
    found = set()
    for service in SERVICES.values():
        texts = [str(value) for value in (*service.get("environment", {}).values(), *service.get("command", []))]
        found |= {pair for text in texts for pair in re.findall(r"\b([a-z0-9-]+):(\d{4,5})\b", text)}
    assert {"kafka", "postgres", "registry", "s3", "spark-master", "prometheus"} <= {name for name, _ in found}
    for name, port in found:
        assert port in served(name), f"{name}:{port}"


def test_who_writes_parquet_writes_it_to_the_one_volume() -> None:
    """An erasure reaches what is there, whichever service has written it."""
    for name, service in OURS.items():
        for variable in ("PULSE_EXPORT_DIR", "PULSE_ARCHIVE_DIR"):
            place = service.get("environment", {}).get(variable)
            assert place is None or "/srv/parquet/" in place
            assert place is None or "parquet:/srv/parquet" in service["volumes"], name
    assert "/srv/parquet" in (ROOT / "deploy" / "Dockerfile").read_text()


def test_volumes_are_declared_and_files_mounted_exist() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).exists(), f"{name}: {source}"
            else:
                assert source in COMPOSE["volumes"], f"{name}: {source}"
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert set(COMPOSE["volumes"]) <= used
    secrets = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert set(COMPOSE["secrets"]) == secrets


def test_no_password_has_a_default_and_every_variable_is_documented() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    example = (ROOT / ".env.example").read_text() + (ROOT / "docs" / "deployment.md").read_text()
    variables = re.findall(r"\$\{([A-Z_0-9]+)(:?[-?][^}]*)?\}", text)
    variables += [(name, "") for service in SERVICES.values() for name, value in environment(service) if value is None]
    variables += [(name, "") for name in (secret["environment"] for secret in COMPOSE["secrets"].values())]
    assert variables
    for name, rest in variables:
        assert name in example, f"{name} is documented nowhere"
        if re.search("PASSWORD|SECRET|KEY", name):
            assert rest == "-" or not rest.startswith((":-", "-")), f"{name} has a default"


SET_BY_THE_FILE = {
    "PULSE_HOME",  # the image's
    "PULSE_JAR_CACHE",
    "PULSE_DOCS_PORT",
    "PULSE_SERVE_HOST",
    "PULSE_SERVE_PORT",
    "PULSE_AIRFLOW_PORT",
    "PULSE_POSTGRES_SSLMODE",
    "PULSE_KAFKA_SECURITY_PROTOCOL",
    "PULSE_KAFKA_SSL_CAFILE",
    "PULSE_KAFKA_SASL_MECHANISM",
    "PULSE_KAFKA_SASL_USERNAME",
    "PULSE_KAFKA_SASL_PASSWORD",
    "PULSE_SCHEMA_REGISTRY_USERNAME",
    "PULSE_SCHEMA_REGISTRY_PASSWORD",
}


def test_a_setting_that_env_names_reaches_who_needs_it() -> None:
    told = set(re.findall(r"^#?(PULSE_\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)) - SET_BY_THE_FILE
    everywhere = set(SERVICES["pulse"]["environment"])
    own = {
        "trending": {"PULSE_SPARK_MEMORY", "PULSE_SPARK_MASTER", "PULSE_SPARK_DRIVER_HOST"},
        "airflow-scheduler": {name for name in told if name.startswith(("PULSE_ALERT_", "PULSE_AIRFLOW_"))},
    }
    assert told <= everywhere.union(*own.values())
    for name, variables in own.items():
        assert variables <= set(SERVICES[name]["environment"])


def variables_of_airflow(folder: Path) -> set[str]:
    """Return what Airflow reads: its options, its home, and the variable that the DAGs ask for."""
    named = re.search(r'^USERS_VARIABLE = "(\w+)"$', (ROOT / "orchestration" / "steps.py").read_text(), re.MULTILINE)
    assert named is not None
    shown = subprocess.check_output(
        [sys.executable, "-m", "airflow", "config", "list", "--defaults"],
        env={**os.environ, "AIRFLOW_HOME": str(folder)},
        text=True,
        stderr=subprocess.DEVNULL,
    )
    options = set(re.findall(r"^# Variable: (AIRFLOW__\w+)$", shown, re.MULTILINE))
    return options | {"AIRFLOW_HOME", f"AIRFLOW_VAR_{named[1].upper()}"}


def test_every_variable_of_our_services_is_read_by_what_runs_there(tmp_path: Path) -> None:
    """By our settings, Airflow, its OpenTelemetry, or Spark (whose starter is tried below)."""
    from opentelemetry.sdk import environment_variables

    ours = {f"PULSE_{field}".upper() for field in Settings.model_fields}
    with_airflow = ours | variables_of_airflow(tmp_path) | set(vars(environment_variables))
    for name, service in OURS.items():
        known = {"SPARK_DAEMON_MEMORY"} if name in SPARK else with_airflow if name in AIRFLOW else ours
        assert set(service.get("environment", {})) <= known, name
    assert "OTEL_EXPORTER_OTLP_PROTOCOL" in SERVICES["airflow-scheduler"]["environment"]
    image = re.findall(r"\b(PULSE_\w+)=", (ROOT / "deploy" / "Dockerfile").read_text())
    assert {"PULSE_HOME", "PULSE_JAR_CACHE"} == set(image) <= ours


AIRFLOW_PARSES = """
import json, sys
from airflow.cli.cli_parser import get_parser
for words in json.loads(sys.argv[1]):
    get_parser().parse_args(words)
"""


def test_commands_of_airflow_exist(tmp_path: Path) -> None:
    """What `pulse airflow` hands on, and the health checks'."""
    asked = [service["command"][2:] for service in AIRFLOW.values()]
    checks = [" ".join(service["healthcheck"]["test"][1:]) for name, service in AIRFLOW.items() if name in LASTING]
    asked += [shlex.split(check)[1:] for check in checks if check.startswith("airflow ")]
    assert ["jobs", "check", "--local", "--limit", "10", "--allow-multiple"] in asked
    for words, is_known in ((asked, True), ([["no-such-command"]], False)):
        done = subprocess.run(
            [sys.executable, "-c", AIRFLOW_PARSES, json.dumps(words)],
            env={**os.environ, "AIRFLOW_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert (done.returncode == 0) == is_known, done.stderr


def test_the_health_check_of_airflows_page_is_the_one_that_we_ask() -> None:
    check = " ".join(SERVICES["airflow-api-server"]["healthcheck"]["test"])
    assert re.findall(r"localhost:8080([^'\"]*)", check) == [HEALTH]


def commands() -> Iterator[tuple[str, list[str]]]:
    for name, service in OURS.items():
        yield name, service["command"]
    for text in re.findall(r"docker compose run --rm \S+ (pulse .*)", (ROOT / "docs" / "deployment.md").read_text()):
        yield "docs", shlex.split(text.rstrip("`"))


@pytest.mark.parametrize(("name", "words"), list(commands()))
def test_commands_of_ours_exist(name: str, words: list[str]) -> None:
    if words == ["true"]:  # it is there for what it mounts
        return
    if words[0] == "spark-class":  # started below
        return
    assert words.pop(0) == "pulse"
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command)
    while isinstance(command, click.Group):
        word = words.pop(0)
        found = command.get_command(context, word)
        assert found is not None, f"pulse has no command {word}"
        command = found
    command.make_context(command.name, words)  # raises for an option that there isn't


def test_health_checks_of_the_page_name_a_route_that_it_has() -> None:
    from serving.health import router

    check = " ".join(SERVICES["serving"]["healthcheck"]["test"])
    (path,) = re.findall(r"localhost:8000(/[a-z/]+)", check)
    assert path in {getattr(route, "path", None) for route in router.routes}


def health_check(name: str, ports: Mapping[str, int]) -> subprocess.CompletedProcess[str]:
    """Run the health check of a service that is written in Python, with other ports."""
    how, python, *words = SERVICES[name]["healthcheck"]["test"]
    assert (how, python) == ("CMD", "python")
    for port, other in ports.items():
        words = [word.replace(f"localhost:{port}", f"127.0.0.1:{other}") for word in words]
    return subprocess.run([sys.executable, *words], capture_output=True, text=True)


@pytest.mark.parametrize("name", ["sink", "trending"])
def test_health_checks_of_the_stream_reach_its_metrics(name: str, tmp_path: Path) -> None:
    from music_pulse.streams import metrics_server

    words = SERVICES[name]["command"]
    ports = {words[words.index("--metrics-port") + 1]: free_ports(1)[0]}
    with metrics_server(Settings(home=tmp_path, metrics_host="127.0.0.1"), *ports.values()):
        answered = health_check(name, ports)
    refused = health_check(name, ports)
    assert (answered.returncode, refused.returncode) == (0, 1), answered.stderr


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image is filled with; the jars are those of the tests' own cache: each is downloaded once."""
    folder = tmp_path_factory.mktemp("image")
    cache = ROOT / ".cache" / "jars"
    cache.mkdir(parents=True, exist_ok=True)
    (folder / "jars").symlink_to(cache)
    subprocess.run([sys.executable, ROOT / "deploy" / "prepare_image.py", folder], check=True, cwd=ROOT)
    return folder


@contextmanager
def spark(name: str, ports: Mapping[str, int], folder: Path, image: Path) -> Iterator[subprocess.Popen[str]]:
    """Start what a service of Spark's starts, on 127.0.0.1, with other ports and folders."""
    words = []
    for word in SERVICES[name]["command"]:
        word = word.replace("spark-master", "127.0.0.1").replace("/var/lib/pulse", str(folder))
        for port, other in ports.items():
            word = re.sub(rf"(^|:){port}$", rf"\g<1>{other}", word)
        words.append(word)
    words[0] = str(Path(sys.executable).with_name(words[0]))
    own = {"JAVA_HOME": str(image / "java"), "SPARK_HOME": str(image / "spark"), "SPARK_LOCAL_IP": "127.0.0.1"}
    own |= SERVICES[name]["environment"]
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(words, env={**os.environ, **own}, stdout=log, stderr=log, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def test_master_and_worker_of_spark_start_as_the_file_says(tmp_path: Path, image: Path) -> None:
    page, worker_page, port = free_ports(3)
    masters, workers = {"7077": port, "8080": page}, {"7077": port, "8081": worker_page}
    deadline = time.monotonic() + 90
    started = spark("spark-master", masters, tmp_path, image), spark("spark-worker", workers, tmp_path, image)
    with started[0] as master, started[1] as worker:
        while (
            health_check("spark-master", masters).returncode
            or health_check("spark-worker", workers).returncode
            or "Registering worker 127.0.0.1:" not in (tmp_path / "spark-master.log").read_text()
        ):
            said = "".join(path.read_text() for path in sorted(tmp_path.glob("*.log")))
            assert time.monotonic() < deadline, said
            assert (master.poll(), worker.poll()) == (None, None), said
            time.sleep(0.5)
        memory = SERVICES["spark-master"]["environment"]["SPARK_DAEMON_MEMORY"]
        assert f"-Xmx{memory}" in Path(f"/proc/{master.pid}/cmdline").read_text().split("\0")


def kafka(folder: Path, words: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run a main class of the broker's, of the version that the image has, and return what it says."""
    assert SERVICES["kafka"]["image"].split(":")[1] in KAFKA_COORDINATES[0]
    classpath = ":".join(map(str, jars.resolve(KAFKA_COORDINATES, ROOT / ".cache" / "jars")))
    done = subprocess.run(
        [str(java()), "-cp", classpath, *words], env=dict(environment), cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_kafkas_image_makes_a_broker_of_its_variables(tmp_path: Path) -> None:
    """By the class that the image itself starts with, which is in the broker's jar: it also formats the storage."""
    variables = dict(SERVICES["kafka"]["environment"], KAFKA_LOG_DIRS=str(tmp_path / "data"))
    del variables["KAFKA_HEAP_OPTS"]  # the start script's own
    defaults, mounted, final = (tmp_path / name for name in ("default", "mounted", "final"))
    for folder in (defaults, mounted, final):
        folder.mkdir()
    for name in ("server.properties", "log4j2.yaml", "tools-log4j2.yaml"):
        (defaults / name).touch()
    folders = ["--default-configs-dir", defaults, "--mounted-configs-dir", mounted, "--final-configs-dir", final]
    words = ["kafka.docker.KafkaDockerWrapper", "setup", *map(str, folders)]
    kafka(tmp_path, words, {**variables, "CLUSTER_ID": "4L6g3nShT-eMCtK--X86sw"})
    properties = dict(re.findall(r"^(\S+?)=(.*)$", (final / "server.properties").read_text(), re.MULTILINE))
    assert len(properties) == len(variables)
    known = set(re.findall(r'href="#\w*?_([a-z.]+)"', kafka(tmp_path, ["kafka.server.KafkaConfig"], {})))
    assert set(properties) <= known
    assert (tmp_path / "data" / "meta.properties").exists()


def test_dockerfile_passes_hadolint() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "deploy" / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_dockerfile_begins_with_a_pinned_image() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON=python:\d+\.\d+\.\d+-\S+$", text, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${PYTHON}"}


def test_dockerfile_copies_no_secrets() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".env", ".git", ".pulse*", "data"} <= set(ignored)


def test_the_image_is_filled_with_what_the_stream_needs(image: Path) -> None:
    shown = subprocess.run([image / "java" / "bin" / "java", "--version"], capture_output=True, text=True)
    assert shown.returncode == 0
    assert (image / "spark" / "jars").is_dir()


def test_java_can_load_the_libraries_that_it_unpacks() -> None:
    """Docker mounts a tmpfs `noexec` unless told otherwise, and Spark's state store is a library unpacked to /tmp."""
    for name, service in OURS.items():
        assert service["read_only"], name
        assert service["tmpfs"] == ["/tmp:exec"], name


def test_prometheus_scrapes_what_the_stack_serves() -> None:
    scraped = yaml.safe_load((ROOT / "monitoring" / "prometheus.yml").read_text())["scrape_configs"]
    for job in scraped:
        for target in job["static_configs"][0]["targets"]:
            service, port = target.split(":")
            words = SERVICES[service].get("command", [])
            assert port in words, target


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "monitoring/prometheus.yml"],
        ["test", "rules", "monitoring/alerts_test.yml"],
    ],
)
def test_alert_rules(arguments: list[str]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried_and_has_its_page_in_the_runbook() -> None:
    tried = (ROOT / "monitoring" / "alerts_test.yml").read_text()
    headings = re.findall(r"^#+ (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    for alert in ALERTS:
        name = alert["alert"]
        assert f"alertname: {name}" in tried
        assert name in headings
        assert alert["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"


def test_alertmanager_posts_to_the_secret_that_it_is_given() -> None:
    told = yaml.safe_load((ROOT / "monitoring" / "alertmanager.yml").read_text())
    receivers = {receiver["name"]: receiver for receiver in told["receivers"]}
    [webhook] = receivers[told["route"]["receiver"]]["webhook_configs"]
    folder, secret = webhook["url_file"].rsplit("/", 1)
    assert folder == "/run/secrets"
    assert secret in SERVICES["alertmanager"]["secrets"]
    matchers = [text for rule in told["inhibit_rules"] for text in (*rule["source_matchers"], *rule["target_matchers"])]
    named = {name for text in matchers for name in re.findall(r'^alertname!?="(\w+)"$', text)}
    assert named
    assert named <= {alert["alert"] for alert in ALERTS}


def metrics() -> set[str]:
    """Return the names of our metrics, as Prometheus sees them."""
    from prometheus_client import CollectorRegistry, generate_latest

    from serving.metrics import ServerMetrics
    from streaming.client import StreamMetrics
    from streaming.trending_metrics import TrendingMetrics

    registry = CollectorRegistry()
    StreamMetrics(registry), TrendingMetrics(registry), ServerMetrics(registry)
    types = re.findall(r"^# TYPE (\w+) (\w+)$", generate_latest(registry).decode(), re.MULTILINE)
    names = {"up", "pulse_kafka_lag"}
    for name, kind in types:
        names |= {f"{name}_bucket", f"{name}_count", f"{name}_sum"} if kind == "histogram" else {name}
    return names


def test_alerts_and_dashboards_ask_for_metrics_that_exist() -> None:
    dashboards = [json.loads(path.read_text()) for path in (ROOT / "monitoring/grafana/dashboards").glob("*.json")]
    asked = [target["expr"] for board in dashboards for panel in board["panels"] for target in panel["targets"]]
    assert asked
    asked += [alert["expr"] for alert in ALERTS]
    named = {name for text in asked for name in re.findall(r"\bpulse_\w+", text)}
    assert named <= metrics()
