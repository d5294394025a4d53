"""`pulse up`, `down` and `status`: the embedded Postgres as a person sees it."""

from __future__ import annotations

import shlex
from pathlib import Path

from music_pulse import stack
from music_pulse.display import command_name
from music_pulse.errors import ConfigurationError, PulseError
from music_pulse.settings import Settings


def up(settings: Settings) -> str:
    """Start the embedded server, keep it up, and say how to use it."""
    from music_pulse.embedded import postgres

    _require_embedded(settings, "up")
    postgres.keep_up(settings.home)
    with stack.warehouse(settings) as filled:
        path = stack.write_env_file(filled)
        dbt = Path(command_name()).with_name("dbt")
        return (
            f"Postgres is up on {filled.postgres_host}:{filled.postgres_port}, "
            f"database {filled.postgres_dbname}\n"
            f"For plain dbt or psql in this shell: . {shlex.quote(str(path))}\n"
            f"Then, for example:                   {dbt} build --project-dir dbt_project --profiles-dir .\n"
            f"Stop it with:                        {command_name()} down"
        )


def up_kafka(settings: Settings) -> str:
    """Start the embedded broker, keep it up, and say how to use it."""
    from music_pulse.display import step
    from music_pulse.embedded import broker

    if settings.kafka_bootstrap:
        raise ConfigurationError("pulse up --kafka is for the embedded broker: PULSE_KAFKA_BOOTSTRAP names another")
    with step("Starting Kafka") as report:
        endpoint = broker.keep_up(settings.home, jar_cache=settings.jar_cache, progress=report)
    return f"Kafka is up on {endpoint.bootstrap}"


def down(settings: Settings) -> str:
    """Stop the embedded servers."""
    from music_pulse.embedded import broker, postgres

    _require_embedded(settings, "down")
    lines = ["Kafka is stopped"] if broker.shut_down(settings.home) else []
    lines.append("Postgres is stopped" if postgres.shut_down(settings.home) else "Postgres was not running")
    return "\n".join(lines)


def status(settings: Settings) -> str:
    """Say where things are, what runs and what the warehouse holds."""
    lines = [
        f"home      {settings.home}",
        f"target    {settings.target}",
        f"database  {settings.postgres_dbname}",
        f"export    {settings.export_dir}",
    ]
    if settings.target == "embedded":
        from music_pulse.embedded.postgres import EmbeddedPostgres

        server = EmbeddedPostgres(settings.home)
        if server.is_running():
            endpoint = server.endpoint()
            lines.append(f"postgres  up on {endpoint.host}:{endpoint.port}")
        else:
            lines.append("postgres  not running (commands start it when they need it)")
        if not server.data.exists():
            return "\n".join([*lines, "listens   none yet"])
    return "\n".join([*lines, f"kafka     {_kafka(settings)}", f"listens   {_held(settings)}"])


def _kafka(settings: Settings) -> str:
    """Say which broker is used, and whether the embedded one runs; `stream status` has the rest."""
    if settings.kafka_bootstrap:
        return settings.kafka_bootstrap
    from music_pulse.embedded.broker import EmbeddedBroker

    server = EmbeddedBroker(settings.home)
    return f"up on {server.endpoint().bootstrap}" if server.is_running() else "not running (the stream starts it)"


def _held(settings: Settings) -> str:
    try:
        with stack.warehouse(settings) as filled:
            from serving.queries import summary

            found = summary(filled)
            return f"{found.listens:,} of {len(found.users):,} users, newest day {found.newest_day or 'none'}"
    except PulseError as error:
        return f"unknown: {error}"


def _require_embedded(settings: Settings, command: str) -> None:
    if settings.target != "embedded":
        raise ConfigurationError(f"pulse {command} is for PULSE_TARGET=embedded; {settings.target} runs by itself")
