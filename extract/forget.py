"""Take a person out of what dlt wrote and what no column names: its state, payloads in quarantine, notes of files.

Rows whose columns name the person are the caller's: see `music_pulse.forget`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from extract.listenbrainz.common import SOURCE
from extract.pipeline import landing, pipelines_dir
from extract.rows import user_named
from music_pulse.identity import key
from music_pulse.settings import Settings

if TYPE_CHECKING:
    import psycopg

_PER_USER = ("intervals", "verified", "unexplained")
"""Parts of the state that are kept by user, under names as ListenBrainz spells them."""


@contextmanager
def nothing_lands(settings: Settings) -> Iterator[None]:
    """Keep all landings waiting; rows of interrupted ones are deleted first."""
    with landing(settings, SOURCE):
        yield


def forget_in_raw(connection: psycopg.Connection, names: list[str], mentions: Callable[[str], bool]) -> dict[str, int]:
    """Delete, in the caller's transaction; return rows by table. Call it while raw.listens still has the person.

    `names` are all spellings, `mentions` tells whether a text names the person.
    """
    return {
        "raw._dlt_pipeline_state": _forget_state(connection, names),
        "raw.quarantine": _forget_payloads(connection, names, mentions),
        "raw.imported_files": _forget_files(connection, names, mentions),
    }


def remove_working_folders(settings: Settings) -> None:
    """Remove dlt's copies of its state and of its last packages: each landing takes them from the destination."""
    import shutil

    shutil.rmtree(pipelines_dir(settings), ignore_errors=True)


def _forget_state(connection: psycopg.Connection, names: list[str]) -> int:
    """Rewrite each version of the state that names the person, so that no old one does."""
    from dlt.common.versioned_state import compress_state, decompress_state, generate_state_version_hash

    if connection.execute("select to_regclass('raw._dlt_pipeline_state')").fetchone() == (None,):
        return 0
    keys = set(map(key, names))
    rewritten = 0
    for row_id, text in connection.execute("select _dlt_id, state from raw._dlt_pipeline_state").fetchall():
        state: Any = decompress_state(text)
        found = False
        for part in (source.get(part, {}) for source in state.get("sources", {}).values() for part in _PER_USER):
            for name in [name for name in part if key(name) in keys]:
                del part[name]
                found = True
        if found:
            state["_version_hash"] = generate_state_version_hash(state, ["_local"])
            connection.execute(
                "update raw._dlt_pipeline_state set state = %s, version_hash = %s where _dlt_id = %s",
                [compress_state(state), state["_version_hash"], row_id],
            )
            rewritten += 1
    return rewritten


def _forget_payloads(connection: psycopg.Connection, names: list[str], mentions: Callable[[str], bool]) -> int:
    """Delete refused records that name the person only in what they said, or where they stood.

    What was refused of somebody else stays, unless it says itself that it is the person's: a name may be a word that
    others' listens hold.
    """
    keys = set(map(key, names))
    deleted = 0

    def is_theirs(*owners: str | None) -> bool:
        known = [key(owner) for owner in owners if owner is not None]
        return not known or not keys.isdisjoint(known)

    with connection.cursor("quarantined") as cursor:
        cursor.execute("select cast(ctid as text), user_name, payload, coalesce(position, '') from raw.quarantine")
        found = [
            place
            for place, user, payload, position in cursor
            if mentions(position) or (mentions(payload) and is_theirs(user, user_named(payload)))
        ]
    if found:
        deleted = connection.execute("delete from raw.quarantine where ctid = any(%s::tid[])", [found]).rowcount
    return deleted


def _forget_files(connection: psycopg.Connection, names: list[str], mentions: Callable[[str], bool]) -> int:
    """Delete notes of files that held listens of the person, or are called after the person."""
    rows = connection.execute("select cast(ctid as text), name, _dlt_load_id from raw.imported_files").fetchall()
    named = [place for place, name, _ in rows if mentions(name)]
    return connection.execute(
        """
        delete from raw.imported_files as files
        where
            files.ctid = any(%s::tid[])
            or exists (
                select 1 from raw.listens
                where listens._dlt_load_id = files._dlt_load_id and listens.user_name = any(%s)
            )
        """,
        [named, names],
    ).rowcount
