"""Erasure: a person is taken out of everything that is kept here, and stays out.

raw, intermediate, marts, dlt's state, Parquet, logs -> nothing of the person; raw.erasures <- when and how many rows

What is done, in this order, so that whoever is killed when, nothing comes back and a second run goes on:

1. The person is blocked, and an unfinished receipt is written.
2. Lines of logs that name the person are deleted.
3. One transaction deletes every row that names the person. In `int_listens_deduplicated` the rows are only marked as
   deleted, so that dbt builds the days, tracks and artists that they touch without them; then they are deleted, too.
4. Parquet is written anew where it changed.
5. All tables are looked through once more, and the receipt is finished.

Which tables name people is read from the database, by `USER_COLUMNS`: a new table is erased from without a word here.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote
from uuid import UUID, uuid4

from music_pulse import transform
from music_pulse.blocklist import Blocklist, block, keyed_hash, read_blocklist, unblock
from music_pulse.database import connect
from music_pulse.display import step
from music_pulse.errors import InputError, PulseError
from music_pulse.identity import key
from music_pulse.settings import Settings

if TYPE_CHECKING:
    import psycopg

logger = logging.getLogger(__name__)

SCHEMAS = ("raw", "staging", "intermediate", "marts", "app")
USER_COLUMNS = ("user_name", "user_id", "user_key")
"""Every table of `SCHEMAS` that holds people names them in one of these columns, or in `dimension` as `user:<name>`."""

_MARKED = "intermediate.int_listens_deduplicated"
_DIMENSION = "user:"
_ESCAPED = re.compile(r'((?:\\u[0-9a-fA-F]{4})+)|\\(["/\\])')  # in JSON
_UNFINISHED = "select distinct user_hash from raw.erasures where finished_at is null"

# Refused records whose columns name nobody stand in one row: those of the person may have been among them.
_COUNT_UNNAMED_AGAIN = """
with unnamed as (
    delete from marts.reconciliation where user_id = ''
)

delete from intermediate.int_built_loads
where
    model_name = 'reconciliation'
    and load_id in (select _dlt_load_id from raw.quarantine where user_name is null)
"""


@dataclass(frozen=True)
class Receipt:
    """What an erasure did; names nobody. `rows` deleted or rewritten, by table; times in UTC."""

    erasure_id: UUID
    user_hash: str
    begun_at: datetime
    finished_at: datetime
    rows: Mapping[str, int]


@dataclass(frozen=True)
class _Column:
    table: str
    name: str

    def spelt(self, names: list[str]) -> list[str]:
        """Return `names` as they stand in this column."""
        return [_DIMENSION + name for name in names] if self.name == "dimension" else names


class _Person:
    """Somebody who is known by a keyed hash only: the spellings are found in the tables."""

    def __init__(self, secret: bytes, user_hash: str) -> None:
        self._alone = Blocklist(secret, [user_hash])
        self.user_hash = user_hash

    def is_called(self, name: str) -> bool:
        return name in self._alone


def forget(settings: Settings, user_name: str, confirm: Callable[[str], bool] = lambda _: True) -> Receipt:
    """Erase a person, however the name is spelt, and keep them out. Goes on with an erasure that was interrupted.

    `confirm` is asked with a sentence that says what is there. Raises `InputError` where there is nobody of that name.
    """
    with connect(settings.credentials("admin"), autocommit=True) as connection:
        listens = _listens_of(connection, settings, user_name)
        if listens is None:
            raise InputError(f"there is nobody called {user_name!r} here: see `pulse query` on marts.reconciliation")
        if not confirm(f"{listens:,} listens of {user_name!r} are deleted for good; no import brings them back"):
            raise InputError("nothing was deleted")
    with connect(settings.credentials("loader")) as connection:
        blocklist = block(connection, settings, user_name)
        user_hash = keyed_hash(blocklist.secret, user_name)
        connection.execute(
            """
            insert into raw.erasures (erasure_id, user_hash, begun_at, rows_deleted)
            select %(id)s, %(hash)s, now(), '{}'
            where not exists (select 1 from raw.erasures where user_hash = %(hash)s and finished_at is null)
            """,
            {"id": uuid4(), "hash": user_hash},
        )
    return _erase(settings, _Person(blocklist.secret, user_hash), [user_name])


def finish_erasures(settings: Settings) -> list[Receipt]:
    """Go on with the erasures that were interrupted."""
    with connect(settings.credentials("loader"), autocommit=True) as connection:
        secret = read_blocklist(connection, settings).secret
        rows = connection.execute(_UNFINISHED).fetchall() if secret else []
    return [_erase(settings, _Person(secret, user_hash), []) for (user_hash,) in rows]


def allow(settings: Settings, user_names: Iterable[str]) -> None:
    """Take people off the block list. Raises `InputError` while an erasure isn't finished."""
    with connect(settings.credentials("loader")) as connection:
        for name in user_names:
            if unblock(connection, settings, name):
                logger.info("a person who was forgotten is taken in again, as asked")


def _listens_of(connection: psycopg.Connection, settings: Settings, user_name: str) -> int | None:
    """Return how many listens raw has of a person; None for nobody, an interrupted erasure aside."""
    wanted = key(user_name)
    found = _named_in(connection, lambda name: key(name) == wanted)
    if not found:
        secret = read_blocklist(connection, settings).secret
        is_unfinished = secret and (keyed_hash(secret, user_name),) in connection.execute(_UNFINISHED).fetchall()
        return 0 if is_unfinished else None
    names = sorted({name for names in found.values() for name in names})
    row = connection.execute(
        """
        select
            (select count(*) from raw.listens where user_name = any(%(names)s))
            + (select count(*) from raw.stream_listens where user_name = any(%(names)s))
        """,
        {"names": names},
    ).fetchone()
    return int(row[0]) if row else 0


def _erase(settings: Settings, person: _Person, names: list[str]) -> Receipt:
    from extract.forget import nothing_lands, remove_working_folders
    from streaming.forget import forget_archive

    admin = settings.credentials("admin")
    with step("Erasing"):
        with nothing_lands(settings), transform.one_build(settings), connect(admin, autocommit=True) as connection:
            found = _named_in(connection, person.is_called)
            names = sorted({*names, *(name for spelt in found.values() for name in spelt)})
            lines = _forget_in_logs(settings.home, names)
            with connection.transaction():
                _count(connection, person, {"log lines": lines, **_delete(connection, settings, found, names)})
            remove_working_folders(settings)
            is_built = connection.execute("select to_regclass(%s)", [_MARKED]).fetchone() != (None,)
        files = forget_archive(settings, person.is_called)
    if is_built:
        transform.build(settings)
        with transform.one_build(settings), connect(admin, autocommit=True) as connection:
            _delete_marked(connection, person)
        _export(settings)
    with connect(admin) as connection:
        if left := _named_in(connection, person.is_called):
            where = ", ".join(sorted({column.table for column in left}))
            raise PulseError(
                f"the person is still named in {where}: take the name out of dbt_project/seeds, stop what still "
                "writes it, and run pulse forget again"
            )
        _count(connection, person, {"archive files": files})
        return _finished(connection, person)


def _delete(
    connection: psycopg.Connection, settings: Settings, found: Mapping[_Column, list[str]], names: list[str]
) -> dict[str, int]:
    """Delete every row that names the person, or mark it; return rows by table."""
    from extract.forget import forget_in_raw
    from streaming.forget import forget_windows

    deleted: Counter[str] = Counter(forget_windows(connection, settings, names))
    deleted.update(forget_in_raw(connection, names, mentioning(names)))
    for column in found:
        if column.table == _MARKED:
            deleted[column.table] += _mark(connection, names)
        else:
            deleted[column.table] += _delete_rows(connection, column, names)
    if connection.execute("select to_regclass('marts.reconciliation')").fetchone() != (None,):
        connection.execute(_COUNT_UNNAMED_AGAIN)
    return deleted


def _delete_rows(connection: psycopg.Connection, column: _Column, names: list[str]) -> int:
    statement = f"delete from {column.table} where {column.name} = any(%s)"
    return connection.execute(statement.encode(), [column.spelt(names)]).rowcount


def _mark(connection: psycopg.Connection, names: list[str]) -> int:
    """Mark the listens as deleted, and announce it as a change that the models after it build."""
    now = datetime.now(UTC)
    marked = connection.execute(
        f"update {_MARKED} set is_deleted = true, changed_at = %s where user_id = any(%s)".encode(), [now, names]
    ).rowcount
    connection.execute("insert into intermediate.int_changes (change_id, is_full) values (%s, false)", [now])
    # As if the rule had changed: the next build asks of all listens which spellings are one.
    connection.execute(
        "update intermediate.int_built_rules set identity_repair = null where model_name = 'int_listens_deduplicated'"
    )
    return marked


def _delete_marked(connection: psycopg.Connection, person: _Person) -> None:
    """Delete the marked listens, and what the hooks of the build noted of their user."""
    with connection.transaction():
        for column, names in _named_in(connection, person.is_called).items():
            if column.table.startswith("intermediate."):
                _delete_rows(connection, column, names)


def _export(settings: Settings) -> None:
    from serving.export import export_marts

    with step("Writing Parquet") as report:
        export_marts(settings, progress=report)


def _named_in(connection: psycopg.Connection, is_called: Callable[[str], bool]) -> dict[_Column, list[str]]:
    """Return the columns that name a person, with the spellings."""
    found = {}
    for column in _user_columns(connection):
        statement = f"select distinct {column.name} from {column.table} where {column.name} is not null"
        if column.name == "dimension":
            statement += f" and starts_with(dimension, '{_DIMENSION}')"
        names = [name.removeprefix(column.spelt([""])[0]) for (name,) in connection.execute(statement.encode())]
        if theirs := sorted(filter(is_called, names)):
            found[column] = theirs
    return found


def _user_columns(connection: psycopg.Connection) -> list[_Column]:
    rows = connection.execute(
        """
        select quote_ident(nspname) || '.' || quote_ident(relname), attname
        from pg_class
        inner join pg_namespace on pg_namespace.oid = relnamespace
        inner join pg_attribute on attrelid = pg_class.oid and attnum > 0 and not attisdropped
        where
            nspname = any(%s) and relkind in ('r', 'p')
            and attname = any(%s) and atttypid in ('text'::regtype, 'varchar'::regtype)
        order by 1, 2
        """,
        [list(SCHEMAS), [*USER_COLUMNS, "dimension"]],
    )
    return [_Column(table, name) for table, name in rows]


def _count(connection: psycopg.Connection, person: _Person, rows: Mapping[str, int]) -> None:
    """Add to the receipt, in the transaction that did it."""
    row = connection.execute(
        "select rows_deleted from raw.erasures where user_hash = %s and finished_at is null for update",
        [person.user_hash],
    ).fetchone()
    total = Counter(row[0] if row else {}) + Counter({name: count for name, count in rows.items() if count})
    connection.execute(
        "update raw.erasures set rows_deleted = %s where user_hash = %s and finished_at is null",
        [json.dumps(dict(sorted(total.items()))), person.user_hash],
    )


def _finished(connection: psycopg.Connection, person: _Person) -> Receipt:
    row = connection.execute(
        """
        update raw.erasures set finished_at = clock_timestamp()
        where user_hash = %s and finished_at is null
        returning erasure_id, user_hash, begun_at, finished_at, rows_deleted
        """,
        [person.user_hash],
    ).fetchone()
    if row is None:
        raise PulseError("somebody else has finished this erasure meanwhile: its receipt is in raw.erasures")
    return Receipt(*row)


def mentioning(names: Iterable[str]) -> Callable[[str], bool]:
    """Return what tells whether a text names one of `names`, as a word, in any spelling, also in an address or JSON."""
    words = [rf"(?<!\w){re.escape(word)}(?!\w)" for word in filter(None, map(key, names))]
    pattern = re.compile("|".join(words) or r"(?!)")

    def mentions(text: str) -> bool:
        readings = {text}
        if "%" in text:
            readings.add(unquote(text))
        if "\\" in text:
            readings.add(_ESCAPED.sub(_unescaped, text))
        return any(pattern.search(key(reading)) for reading in readings)

    return mentions


def _unescaped(found: re.Match[str]) -> str:
    if not found[1]:
        return found[2]
    units = b"".join(int(unit, 16).to_bytes(2, "big") for unit in re.findall("[0-9a-fA-F]{4}", found[1]))
    return units.decode("utf-16-be", "replace")


def _forget_in_logs(home: Path, names: list[str]) -> int:
    """Delete lines that name the person from the log files; they stay in place, for who has them open to append."""
    mentions = mentioning(names)
    deleted = 0
    for path in filter(Path.is_file, (home / "logs").rglob("*")):
        try:
            with path.open("r+b") as file:
                lines = file.readlines()
                kept = [line for line in lines if not mentions(line.decode(errors="replace"))]
                if len(kept) < len(lines):
                    file.seek(0)
                    file.truncate()
                    file.writelines(kept)
                    deleted += len(lines) - len(kept)
        except OSError as error:
            raise PulseError(f"can't take the person out of {path}: {error.strerror}; mend it and run again") from error
    return deleted
