"""What `pulse run` and `pulse query` print."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from math import isfinite
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from music_pulse.display import command_name, console, table
from music_pulse.errors import InputError
from music_pulse.settings import DEMO_DBNAME, Settings

if TYPE_CHECKING:
    from rich.console import Console

    from extract.exports import Import
    from extract.listenbrainz.reconcile import Reconciled
    from extract.pipeline import Landed
    from serving.export import Export
    from serving.queries import Summary

MAX_TABLE_ROWS = 1_000
"""`--format table` is for people; json and csv have no end."""


def print_summary(
    settings: Settings, landed: Landed, exported: Export, out: Console, reconciled: Sequence[Reconciled] = ()
) -> None:
    """Show what a run landed, what the warehouse holds and what was heard on the newest day."""
    from serving.queries import summary

    found = summary(settings)
    command, demo = command_name(), " --demo" if settings.postgres_dbname == DEMO_DBNAME else ""
    out.print()
    out.print(_users_table(found))
    if found.newest_day is not None:
        out.print(_top_table(found))
    out.print(
        f"This run landed {landed.listens:,} listens and refused {landed.refused:,}. The marts hold "
        f"{found.listens:,} listens of {found.tracks:,} tracks by {found.artists:,} artists: {found.minutes:,.0f} "
        f"minutes"
        + (
            f" ({found.listens_without_duration:,} listens, {found.listens_without_duration / found.listens:.1%}, are "
            "of unknown length and add none)."
            if found.listens_without_duration
            else "."
        )
    )
    for user in reconciled:
        out.print(_reconciled_line(user), markup=False)
    out.print(f"Parquet  {exported.location} ({exported.written} files written, {exported.kept} unchanged)")
    out.print(f"Docs     {command} docs{demo}")
    out.print(f'Ask      {command} query{demo} "select * from marts.daily_top order by day desc, kind, rank limit 10"')


def _users_table(found: Summary) -> Any:
    columns = ["user", "landed", "refused", "duplicates", "near-duplicates", "skipped", "listens"]
    rows: list[list[Any]] = [
        [
            user.user_id or "(none named)", user.landed, user.refused, user.duplicates, user.near_duplicates,
            user.skipped, user.listens,
        ]
        for user in found.users
    ]  # fmt: skip
    if any(user.reported is not None for user in found.users):
        columns += ["ListenBrainz reports", "held from it", "difference"]
        for row, user in zip(rows, found.users, strict=True):
            row += [user.reported, user.held if user.reported is not None else None, user.difference]
    return table("The warehouse", columns, rows)


def _reconciled_line(user: Reconciled) -> str:
    if user.reported is None:
        return f"{user.user_name} could not be compared with ListenBrainz."
    changes = f"{user.landed.listens:,} listens were added there late, {user.tombstones:,} rows are gone there"
    return (
        f"ListenBrainz reports {user.reported:,} listens of {user.user_name}, {user.held:,} are held from it"
        + (f": {changes}" if user.is_changed else "")
        + (f" ({user.note})." if user.note else ".")
    )


def print_reconciled(reconciled: Sequence[Reconciled], out: Console) -> None:
    """Show count beside count, and why some differ."""
    columns = ["user", "ListenBrainz reports", "held from it", "difference", "landed late", "tombstoned"]
    rows = [
        [
            user.user_name, user.reported, user.held, user.difference, user.landed.listens + user.landed.refused,
            user.tombstones, user.windows, user.requests,
        ]
        for user in reconciled
    ]  # fmt: skip
    out.print(table("Reconciled", [*columns, "windows compared", "requests"], rows))
    for user in reconciled:
        if user.note:
            out.print(f"{user.user_name}: {user.note}", markup=False)


def _top_table(found: Summary) -> Any:
    rows: list[Sequence[Any]] = [
        (top.rank, top.kind, top.name, top.artist_name, top.listens, top.minutes_listened)
        for top in (*found.top_artists, *found.top_tracks)
    ]
    title = f"{found.newest_day}, the newest day: {found.day_listens:,} listens, {found.day_minutes:,.0f} minutes"
    return table(title, ("rank", "kind", "name", "artist", "listens", "minutes"), rows)


def print_import(done: Import, out: Console) -> None:
    """Show what became of each imported file, in records; where several were refused, why."""
    rows: list[list[Any]] = []
    for file in done.files:
        name = PurePath(file.name).name
        if file.was_imported:
            rows.append([name, file.format, *[None] * 7, "imported before"])
        elif not file.error:
            counts = [file.records, file.landed, file.duplicates, file.near_duplicates]
            counts += [file.skipped, file.no_music, file.refused]
            rows.append([name, file.format, *counts, ""])
    if rows:
        columns = ["file", "format", "records", "landed", "duplicates", "near-duplicates"]
        columns += ["skipped", "no music", "refused", ""]
        out.print(table("Imported", columns, rows))
    if len(done.errors) > 1:
        for error in done.errors:
            out.print(f"Refused: {error}", markup=False)


def print_query(settings: Settings, sql: str, format: str) -> None:
    """Run `sql` as the reader and print its rows as a table, as one JSON list of objects or as CSV."""
    from serving.queries import stream_query

    with stream_query(settings, sql) as (columns, rows):
        if format == "json":
            _print_json(columns, rows)
        elif format == "csv":
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)
        else:
            _print_table(columns, rows)


def _print_json(columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> None:
    twice = [name for number, name in enumerate(columns) if name in columns[:number]]
    if twice:
        raise InputError(f"query: two columns are called {twice[0]!r}: a JSON object can't hold both")
    sys.stdout.write("[")
    for number, row in enumerate(rows):
        record = {name: _finite(value) for name, value in zip(columns, row, strict=True)}
        sys.stdout.write(",\n " if number else "\n ")
        sys.stdout.write(json.dumps(record, ensure_ascii=False, default=_json_value))
    sys.stdout.write("\n]\n")


def _finite(value: Any) -> Any:
    """Return None for what JSON has no word for: NaN and the infinities."""
    return None if isinstance(value, (float, Decimal)) and not isfinite(value) else value


def _json_value(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    return str(value)


def _print_table(columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> None:
    shown = [row for row, _ in zip(rows, range(MAX_TABLE_ROWS), strict=False)]
    out = console()
    out.print(table("", columns, shown))
    more = next(rows, None) is not None
    out.print(f"the first {MAX_TABLE_ROWS:,} rows; --format csv shows all" if more else _counted(len(shown)))


def _counted(rows: int) -> str:
    return f"{rows:,} row{'' if rows == 1 else 's'}"
