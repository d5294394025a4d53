"""The steps of a run, wired: land, build, export, show. The command and the DAGs call the same functions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from music_pulse.display import console, step
from music_pulse.errors import BuildError, InputError
from music_pulse.settings import Settings

if TYPE_CHECKING:
    from extract.exports import Import
    from extract.pipeline import Landed
    from serving.export import Export

logger = logging.getLogger(__name__)

DEMO_LISTENS = 50_000
DEMO_SEED = 1


def land_listenbrainz(settings: Settings, users: Sequence[str] | None, since: int | None) -> Landed:
    """Land what is new of `users` (default: the public user of the settings)."""
    from extract.listenbrainz import extract_listenbrainz

    names = list(dict.fromkeys(users or [settings.listenbrainz_user]))
    with step("Reading ListenBrainz") as report:
        return extract_listenbrainz(
            settings,
            names,
            since=since,
            progress=lambda user, done, total: report(done, total, f"windows of {user}"),
        )


def land_synthetic(settings: Settings, *, listens: int = DEMO_LISTENS, seed: int = DEMO_SEED) -> Landed:
    """Land invented listens; the same (listens, seed) land once."""
    from extract.synthetic import land

    with step("Inventing listens") as report:
        return land(settings, listens=listens, seed=seed, progress=report)


def land_files(
    settings: Settings, locations: Sequence[str | Path], user_name: str | None, format: str | None = None
) -> Import:
    """Land export files."""
    from extract.exports import import_files

    with step("Importing") as report:
        return import_files(
            settings,
            locations,
            user_name=user_name,
            format=format,
            progress=lambda name, done: report(done, None, f"records of {name}"),
        )


def build(settings: Settings, *, full_refresh: bool = False) -> None:
    """Build and test the marts."""
    from music_pulse import transform

    with step("Building and testing the marts") as report:
        transform.build(settings, report, full_refresh=full_refresh)


def export(settings: Settings, to: str | None = None) -> Export:
    """Write the Parquet snapshots."""
    from serving.export import export_marts

    with step("Writing Parquet") as report:
        return export_marts(settings, to, progress=report)


def finish(settings: Settings, landed: Landed, *, full_refresh: bool = False) -> None:
    """Build, export and show, after `landed`."""
    from music_pulse.printing import print_summary

    build(settings, full_refresh=full_refresh)
    exported = export(settings)
    print_summary(settings, landed, exported, console())


def build_docs(settings: Settings) -> Path:
    """Build the dbt docs site; return its folder."""
    from music_pulse import transform

    if transform.run_dbt(settings, ["--quiet", "docs", "generate"]):
        raise BuildError("dbt docs generate failed: see its output above")
    return transform.target_path(settings)


def serve_docs(folder: Path, port: int) -> None:
    """Serve the docs until Ctrl-C."""
    from serving.docs import serve

    with serve(folder, port) as server:
        console().print(f"http://127.0.0.1:{server.server_address[1]}/ (Ctrl-C stops it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console().print("stopped")


def landed_line(landed: Landed) -> str:
    """Say in a line what was landed."""
    return f"landed {landed.listens:,} listens, refused {landed.refused:,}"


def show_import(done: Import) -> None:
    """Show what became of each file. Raises `InputError` where one was refused."""
    from music_pulse.printing import print_import

    out = console()
    out.print(landed_line(done.landed))
    print_import(done, out)
    if len(done.errors) == 1:
        raise InputError(done.errors[0])
    if done.errors:
        raise InputError(f"{len(done.errors)} of {len(done.files)} files were refused; the others are landed")


def export_line(exported: Export) -> str:
    """Say in a line what was exported."""
    return (
        f"Parquet in {exported.location}: {exported.written} files written, {exported.kept} unchanged, "
        f"{exported.removed} removed"
    )
