"""The steps of a run, wired: land, build, export, show. The command and the DAGs call the same functions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from music_pulse.display import console, step, table
from music_pulse.errors import BuildError, ExternalAPIError, InputError, ReconciliationError
from music_pulse.settings import Settings

if TYPE_CHECKING:
    from extract.exports import Import
    from extract.listenbrainz.metadata import Enriched
    from extract.listenbrainz.reconcile import Reconciled
    from extract.pipeline import Landed
    from serving.export import Export

logger = logging.getLogger(__name__)

DEMO_LISTENS = 50_000
DEMO_SEED = 1


def land_listenbrainz(settings: Settings, users: Sequence[str] | None, since: int | None) -> Landed:
    """Land what is new of `users` (default: the public user of the settings)."""
    from extract.listenbrainz import extract_listenbrainz

    with step("Reading ListenBrainz") as report:
        return extract_listenbrainz(
            settings,
            _names(settings, users),
            since=since,
            progress=lambda user, done, total: report(done, total, f"windows of {user}"),
        )


def enrich(settings: Settings, limit: int | None = None) -> Enriched:
    """Ask for metadata of recordings that is due, at most `limit`."""
    from extract.listenbrainz.metadata import enrich as ask

    with step("Asking for metadata") as report:
        return ask(settings, limit=limit, progress=lambda done, total: report(done, total, "recordings"))


def enrich_run(settings: Settings) -> None:
    """Do so as part of a run, which doesn't depend on it: what fails is a warning, and the next run goes on."""
    if not settings.enrich_recordings:
        return
    try:
        enrich(settings)
    except ExternalAPIError as error:
        logger.warning("no metadata this time: %s", error)


def reconcile_run(settings: Settings, users: Sequence[str] | None, since: int | None) -> list[Reconciled]:
    """Reconcile what a run has read; with `since` not all is meant to be held, so there is nothing to compare."""
    return [] if since is not None else reconcile(settings, _names(settings, users))


def reconcile(
    settings: Settings, users: Sequence[str] | None, *, is_full: bool = False, confirm: bool = False
) -> list[Reconciled]:
    """Land what was added late, and tombstones for what is gone, of `users` (default: all that were ever read)."""
    from extract.listenbrainz.reconcile import reconcile_listenbrainz

    with step("Reconciling with ListenBrainz") as report:
        return reconcile_listenbrainz(
            settings,
            users,
            is_full=is_full,
            confirm=confirm,
            progress=lambda user, done: report(done, None, f"windows of {user}"),
        )


def rescan(settings: Settings, users: Sequence[str], start: int, end: int) -> list[Reconciled]:
    """Read again what `users` listened to in [start, end), in seconds since 1970: adds and deletes as needed."""
    from extract.listenbrainz.reconcile import reconcile_listenbrainz

    with step("Reading again") as report:
        return reconcile_listenbrainz(
            settings,
            users,
            interval=(start, end),
            progress=lambda user, done: report(done, None, f"windows of {user}"),
        )


def finish_reconciliation(settings: Settings, reconciled: Sequence[Reconciled]) -> None:
    """Build and export where something changed, and show the counts. Raises `ReconciliationError`."""
    from music_pulse.printing import print_reconciled

    if any(user.is_changed for user in reconciled):
        build(settings)
        export(settings)
    print_reconciled(reconciled, console())
    raise_unless_reconciled(reconciled)


def _names(settings: Settings, users: Sequence[str] | None) -> list[str]:
    return list(dict.fromkeys(users or [settings.listenbrainz_user]))


def raise_unless_reconciled(reconciled: Sequence[Reconciled]) -> None:
    """Raise `ReconciliationError` where one of them did not end."""
    errors = [user.error for user in reconciled if user.error]
    if errors:
        others = f" ({len(errors) - 1} more users were not reconciled)" if len(errors) > 1 else ""
        raise ReconciliationError(f"{errors[0]}{others}") from errors[0]


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


def forget(settings: Settings, user_name: str, confirm: Callable[[str], bool]) -> None:
    """Erase a person, and show the receipt."""
    from music_pulse.forget import forget as erase

    receipt = erase(settings, user_name, confirm)
    out = console()
    out.print(table("Erased", ["what", "rows"], receipt.rows.items()))
    out.print(
        f"Receipt {receipt.erasure_id} in raw.erasures; blocked as {receipt.user_hash[:12]}…. Kafka keeps events for "
        f"{settings.kafka_retention_days} days; for backups and what else isn't ours to erase see docs/privacy.md."
    )


def finish_erasures(settings: Settings) -> None:
    """Go on with erasures that were interrupted."""
    from music_pulse.forget import finish_erasures as finish_all

    for receipt in finish_all(settings):
        logger.info("an erasure that was interrupted is finished: receipt %s", receipt.erasure_id)


def allow(settings: Settings, users: Sequence[str] | None, is_meant: bool) -> None:
    """Take users off the block list, if it `is_meant`."""
    if not is_meant:
        return
    if not users:
        raise InputError("--allow: say who is taken in again with --user NAME")
    from music_pulse.forget import allow as unblock_all

    unblock_all(settings, users)


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


def finish(
    settings: Settings, landed: Landed, reconciled: Sequence[Reconciled] = (), *, full_refresh: bool = False
) -> None:
    """Build, export and show, after `landed` and `reconciled`. Raises `ReconciliationError` at the end."""
    from music_pulse.printing import print_summary

    for user in reconciled:
        landed += user.landed
    build(settings, full_refresh=full_refresh)
    exported = export(settings)
    print_summary(settings, landed, exported, console(), reconciled)
    raise_unless_reconciled(reconciled)


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
    if not done.files:
        raise InputError("nothing to import: no listening history there")
    if len(done.errors) < len(done.files):
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
