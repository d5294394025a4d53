"""The command `pulse`: thin wrappers that wire the packages; nothing heavy is imported before it is needed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from music_pulse import __version__
from music_pulse.errors import (
    ExternalAPIError,
    InputError,
    PulseError,
    StoppedError,
    UnknownUserError,
    forget_caught_interrupt,
)

if TYPE_CHECKING:
    from music_pulse.settings import Settings

logger = logging.getLogger(__name__)

app = typer.Typer(
    name="pulse",
    help="Your listening history as a warehouse: nothing lost, nothing doubled.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # plain help: a quarter of a second less
    context_settings={"help_option_names": ["-h", "--help"]},
)
extract_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Land listens in schema raw, and do nothing else."
)
app.add_typer(extract_app, name="extract")
stream_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Run the parts of the stream one by one.")
app.add_typer(stream_app, name="stream")
token_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Who may send listens to `pulse serve`.")
app.add_typer(token_app, name="token")

Demo = Annotated[bool, typer.Option("--demo", help="Work on the synthetic demo (database pulse_demo).")]
Users = Annotated[list[str] | None, typer.Option("--user", "-u", help="ListenBrainz user; may be given several times.")]
Since = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%d"], help="Leave out what was listened to before this day (UTC)."),
]


Allow = Annotated[
    bool, typer.Option("--allow", help="Take the users in again, though they were forgotten here: they want it.")
]
MetricsPort = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="Serve Prometheus' /metrics on PULSE_METRICS_HOST; 0 takes a free port."),
]


class Format(StrEnum):
    """How `pulse query` prints."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def main() -> None:
    """Run the command; expected failures end in one line on stderr and their exit code."""
    try:
        app()
    except PulseError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(141) from None
    except OSError as error:
        logger.debug("unexpected", exc_info=True)
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1)
    except ModuleNotFoundError as error:
        logger.debug("unexpected", exc_info=True)
        _fail(f"the package {error.name} isn't installed: `make setup-all` installs all (the stream needs more)", 2)
    except Exception as error:
        logger.debug("unexpected", exc_info=True)
        _fail(f"unexpected {type(error).__name__}: {error} (details: logs/pulse.jsonl in PULSE_HOME)", 1)
    finally:
        forget_caught_interrupt()


def _fail(message: str, code: int) -> NoReturn:
    from music_pulse.logs import without_secrets

    sys.stderr.write(f"error: {without_secrets(' '.join(message.split()))}\n")
    raise SystemExit(code)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"pulse {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Settings come from PULSE_* variables and `.env`; `.env.example` lists them all."""


def _settings(demo: bool = False) -> Settings:
    from music_pulse.logs import configure_logging
    from music_pulse.settings import load_settings

    settings = load_settings()
    configure_logging(settings.home, settings.log_level)
    return settings.demo() if demo else settings


@contextmanager
def _warehouse(demo: bool = False) -> Iterator[Settings]:
    from music_pulse.stack import warehouse

    try:
        with warehouse(_settings(demo)) as settings:
            yield settings
    except KeyboardInterrupt:
        # Here, since typer would make "Aborted!" of it.
        raise StoppedError("stopped; nothing is lost: run the same command again to go on") from None


@app.command()
def run(
    user: Users = None,
    since: Since = None,
    demo: Demo = False,
    full_refresh: Annotated[bool, typer.Option(help="Build every model anew.")] = False,
    allow: Allow = False,
) -> None:
    """Extract, reconcile, build and export; show what was heard.

    Without --user it takes a public user (PULSE_LISTENBRAINZ_USER) and, where ListenBrainz can't be reached, goes on
    with invented listens in a database of their own.
    """
    from music_pulse import run as steps

    if demo and (user or since):
        raise InputError("--demo invents its listens: it takes neither --user nor --since")
    landed = None
    with _warehouse(demo) as settings:
        steps.finish_erasures(settings)
        steps.allow(settings, user, allow)
        try:
            landed = steps.land_synthetic(settings) if demo else steps.land_listenbrainz(settings, user, _epoch(since))
            reconciled = [] if demo else steps.reconcile_run(settings, user, _epoch(since))
            if not demo:
                steps.enrich_run(settings)
            steps.finish(settings, landed, reconciled, full_refresh=full_refresh)
            return
        except ExternalAPIError as error:
            if user or demo or landed or isinstance(error, UnknownUserError):
                raise
            logger.debug("going on with invented listens", exc_info=True)
            typer.echo(
                f"ListenBrainz can't be reached: going on with invented listens, in the database pulse_demo ({error})",
                err=True,
            )
    with _warehouse(demo=True) as settings:
        steps.finish(settings, steps.land_synthetic(settings), full_refresh=full_refresh)


@app.command()
def reconcile(
    user: Users = None,
    full: Annotated[bool, typer.Option("--full", help="Compare every window, even where the counts agree.")] = False,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Most of a history is gone at ListenBrainz, and it is meant.")
    ] = False,
) -> None:
    """Agree with ListenBrainz again: added late, deleted, edited.

    Without --user it takes all that were ever read. The marts are built where something changed
    (docs/reconciliation.md).
    """
    from music_pulse import run as steps

    with _warehouse() as settings:
        steps.finish_reconciliation(settings, steps.reconcile(settings, user, is_full=full, confirm=confirm))


@extract_app.command("listenbrainz")
def extract_listenbrainz(user: Users = None, since: Since = None, allow: Allow = False) -> None:
    """Land what is new of ListenBrainz users."""
    from music_pulse import run as steps

    with _warehouse() as settings:
        steps.allow(settings, user, allow)
        landed = steps.land_listenbrainz(settings, user, _epoch(since))
    typer.echo(steps.landed_line(landed))


@app.command()
def enrich(
    limit: Annotated[
        int | None, typer.Option(min=1, help="Most recordings to ask for; default: PULSE_ENRICH_RECORDINGS.")
    ] = None,
) -> None:
    """Ask ListenBrainz for lengths, genres and canonical names.

    Most listened first. Started again, it goes on.
    """
    from music_pulse import run as steps

    with _warehouse() as settings:
        done = steps.enrich(settings, limit)
    typer.echo(f"asked for {done.asked:,} recordings, {done.known:,} are known; {done.tracks:,} tracks got an MBID")
    if done.is_changed:
        typer.echo("Build the marts with: pulse dbt build")


@extract_app.command("synthetic")
def extract_synthetic(
    listens: Annotated[int, typer.Option(min=1, help="How many to invent.")] = 50_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same listens.")] = 1,
) -> None:
    """Land invented listens, always in the demo's database."""
    from music_pulse import run as steps

    with _warehouse(demo=True) as settings:
        landed = steps.land_synthetic(settings, listens=listens, seed=seed)
    typer.echo(steps.landed_line(landed))


@app.command("import")
def import_files(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", help="Files, folders, zips, patterns, s3:// or gs:// addresses.", show_default=False
        ),
    ],
    user: Annotated[str | None, typer.Option("--user", "-u", help="Whose listens, unless the records say.")] = None,
    format: Annotated[
        str | None, typer.Option("--format", "-f", help="Take all files as of this format; default: each is detected.")
    ] = None,
    allow: Allow = False,
) -> None:
    """Land listening histories from files.

    Of ListenBrainz, Spotify, Last.fm, Maloja and Koito: see docs/importing.md.
    """
    from music_pulse import run as steps

    with _warehouse() as settings:
        steps.allow(settings, [user] if user else None, allow)
        done = steps.land_files(settings, paths, user, format)
    steps.show_import(done)
    typer.echo("Build the marts with: pulse dbt build")


@app.command()
def forget(
    user: Annotated[str, typer.Option("--user", "-u", help="Who, in any spelling.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Erase a person everywhere, and keep them out (docs/privacy.md).

    Started again, it goes on with what was interrupted.
    """
    from music_pulse import run as steps

    with _warehouse() as settings:
        steps.forget(settings, user, lambda text: yes or typer.confirm(f"{text}. Go on?"))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def dbt(context: typer.Context) -> None:
    """Run dbt on a running database (--demo comes first).

    For example: pulse dbt build --select tracks+
    """
    from music_pulse.transform import run_dbt

    arguments = list(context.args)
    demo = arguments[:1] == ["--demo"]
    with _warehouse(demo) as settings:
        code = run_dbt(settings, arguments[1:] if demo else arguments)
    raise typer.Exit(code)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def airflow(context: typer.Context) -> None:
    """Start Airflow with the DAGs until Ctrl-C, or run its command.

    For example: pulse airflow dags list
    """
    from music_pulse.airflow import run_airflow, serve_airflow

    with _warehouse() as settings:
        if context.args:
            raise typer.Exit(run_airflow(settings, context.args))
        serve_airflow(settings)


@app.command()
def export(
    to: Annotated[str | None, typer.Option(help="Folder or s3://bucket/prefix; default: PULSE_EXPORT_DIR.")] = None,
    demo: Demo = False,
) -> None:
    """Write the marts as Parquet; only months that changed."""
    from music_pulse import run as steps

    with _warehouse(demo) as settings:
        typer.echo(steps.export_line(steps.export(settings, to)))


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="One statement over schema marts.")],
    format: Annotated[Format, typer.Option("--format", "-f", help="How to print the rows.")] = Format.TABLE,
    demo: Demo = False,
) -> None:
    """Ask the marts, read-only. JSON is one list of objects."""
    from music_pulse.printing import print_query

    with _warehouse(demo) as settings:
        print_query(settings, sql, format.value)


@app.command()
def docs(
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = None,
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve them, or only build them.")] = True,
    demo: Demo = False,
) -> None:
    """Build the dbt docs site and serve it on 127.0.0.1 until Ctrl-C."""
    from music_pulse import run as steps

    with _warehouse(demo) as settings:
        folder = steps.build_docs(settings)
    typer.echo(f"docs: {folder / 'index.html'}")
    if serve:
        steps.serve_docs(folder, settings.docs_port if port is None else port)


@app.command()
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address; one that others reach needs a token first. Default: PULSE_SERVE_HOST.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one. Default: PULSE_SERVE_PORT.")
    ] = None,
    demo: Demo = False,
) -> None:
    """Serve the page, its API, the docs, and a place for scrobblers.

    Listens go to Kafka where it runs (`pulse live`, PULSE_KAFKA_BOOTSTRAP), else into the database (docs/serving.md).
    """
    from music_pulse.serve import run_server

    with _warehouse(demo) as settings:
        chosen = {name: value for name, value in (("serve_host", host), ("serve_port", port)) if value is not None}
        run_server(settings.model_copy(update=chosen))


@token_app.command("create")
def token_create(
    name: Annotated[str, typer.Argument(help="The user that listens sent with it are of.", show_default=False)],
    demo: Demo = False,
) -> None:
    """Make a token; it is shown this once."""
    from music_pulse.serve import create_token

    with _warehouse(demo) as settings:
        token = create_token(settings, name)
    typer.echo(token)
    typer.echo("It is not shown again. Give it to your scrobbler, with the address that pulse serve names.", err=True)


@token_app.command("list")
def token_list(demo: Demo = False) -> None:
    """Show whose tokens there are, and since when."""
    from music_pulse.display import cell_text
    from serving.tokens import list_tokens

    with _warehouse(demo) as settings:
        for token in list_tokens(settings):
            typer.echo(f"{token.created_at:%Y-%m-%d %H:%M}  {token.mark}  {cell_text(token.user_name)}")


@token_app.command("revoke")
def token_revoke(
    name: Annotated[str, typer.Argument(help="The user, in any spelling.", show_default=False)],
    demo: Demo = False,
) -> None:
    """Revoke all tokens of a user, at once."""
    from serving.tokens import revoke_tokens

    with _warehouse(demo) as settings:
        typer.echo(f"revoked {revoke_tokens(settings, name):,}")


@app.command()
def live(
    simulate: Annotated[
        float | None, typer.Option(min=0.01, help="Send so many invented listens a second, in a demo of their own.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop by itself after so long.")] = None,
    demo: Demo = False,
) -> None:
    """Show what is trending now.

    Starts Postgres, Kafka, the trending job and the sink, and stops them at Ctrl-C.
    """
    from music_pulse.live import run_live

    with _warehouse(demo or simulate is not None) as settings:
        run_live(settings, simulate, seconds)


@stream_app.command("trending")
def stream_trending(
    metrics_port: MetricsPort = None,
    dead_letters: Annotated[
        bool,
        typer.Option("--dead-letters/--no-dead-letters", help="Set malformed events aside; the sink does so, too."),
    ] = True,
    demo: Demo = False,
) -> None:
    """Count trending windows with Spark until stopped."""
    from music_pulse import streams

    with _warehouse(demo) as settings:
        streams.run_trending(settings, metrics_port, dead_letters=dead_letters)


@stream_app.command("sink")
def stream_sink(metrics_port: MetricsPort = None, demo: Demo = False) -> None:
    """Land every event in raw.stream_listens until stopped."""
    from music_pulse import streams

    with _warehouse(demo) as settings:
        streams.run_sink(settings, metrics_port)


@stream_app.command("simulate")
def stream_simulate(
    rate: Annotated[float, typer.Argument(min=0.01, help="Events a second.")] = 20.0,
    seconds: Annotated[float | None, typer.Option(min=0, help="Stop by itself after so long.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed tells the same story.")] = 1,
) -> None:
    """Send invented listens to the demo's topic.

    Among them a rising hit, a flooder, late and doubled events.
    """
    from music_pulse import streams

    with _warehouse(demo=True) as settings:
        typer.echo(f"sent {streams.run_simulator(settings, rate, seconds, seed):,} events")


@stream_app.command("replay")
def stream_replay(
    path: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="JSON lines, plain or gzip; default: what is landed.")
    ] = None,
    speed: Annotated[float, typer.Option(min=0.001, help="So many times as fast as it was listened to.")] = 3600.0,
    user: Annotated[str | None, typer.Option("--user", "-u", help="Whose listens, unless the lines say.")] = None,
    demo: Demo = False,
) -> None:
    """Send a history, of a file or landed, in the order of its times."""
    from music_pulse import streams

    with _warehouse(demo) as settings:
        sent, bad = streams.run_replay(settings, path, speed, user)
    typer.echo(f"sent {sent:,} events, {bad:,} lines are no listens")


@stream_app.command("status")
def stream_status(demo: Demo = False) -> None:
    """Show each group's lag, and how fresh what was landed is."""
    from music_pulse import streams

    with _warehouse(demo) as settings:
        streams.status(settings)


@app.command()
def up(
    kafka: Annotated[bool, typer.Option("--kafka", help="The embedded Kafka broker, too.")] = False,
    demo: Demo = False,
) -> None:
    """Start the embedded Postgres and keep it up.

    For psql, plain dbt or a notebook.
    """
    from music_pulse import server

    settings = _settings(demo)
    typer.echo(server.up(settings))
    if kafka:
        typer.echo(server.up_kafka(settings))


@app.command()
def down() -> None:
    """Stop the embedded Postgres, and the broker if it runs."""
    from music_pulse import server

    typer.echo(server.down(_settings()))


@app.command()
def status(demo: Demo = False) -> None:
    """Show what runs and what the warehouse holds."""
    from music_pulse import server

    typer.echo(server.status(_settings(demo)))


@app.command()
def doctor() -> None:
    """Check each part and say how to mend it."""
    from music_pulse.doctor import check_all

    if not check_all(_settings(), typer.echo):
        raise typer.Exit(1)


def _epoch(day: datetime | None) -> int | None:
    if day is None:
        return None
    if day.year < 2002:
        raise InputError("--since: ListenBrainz holds nothing before 2002-10-01")
    if day.replace(tzinfo=UTC) > datetime.now(UTC):
        raise InputError(f"--since: {day:%Y-%m-%d} is in the future")
    return int(day.replace(tzinfo=UTC).timestamp())


if __name__ == "__main__":
    main()
