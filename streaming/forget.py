"""Take a person out of what the stream wrote: shares of trending windows in Postgres, and the Parquet archive.

Windows hold counts and no names. They stay what they would be without the person: each user adds to a window apart
from all others, so what one added can be taken away.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from music_pulse.errors import PulseError
from music_pulse.settings import Settings
from streaming.archive import ListensArchive
from streaming.day_files import DayFiles
from streaming.listens_table import new_load_id
from streaming.tables import LOCK_WINDOWS
from streaming.window_archive import WINDOWS_FILE, archive_windows

# What counted, as the trending job counts it.
_THEIRS = """
create temporary table their_listens on commit drop as
select listened_at, track_id, artist_id
from raw.stream_listens
where user_name = any(%(names)s) and listened_at <= kafka_timestamp + %(clock_ahead)s
"""
_SHARES = """
create temporary table their_shares on commit drop as
select
    windows.window_start, windows.window_end, windows.entity_kind, windows.entity_id,
    least(count(*), %(cap)s) as listens
from their_listens
inner join raw.trending_windows as windows
    on windows.window_start <= their_listens.listened_at
    and windows.window_end > their_listens.listened_at
    and windows.entity_id
        = case windows.entity_kind when 'track' then their_listens.track_id else their_listens.artist_id end
group by 1, 2, 3, 4
"""
_KEY = " and ".join(
    f"windows.{name} = their_shares.{name}" for name in ("window_start", "window_end", "entity_kind", "entity_id")
)
_EMPTIED = f"""
delete from raw.trending_windows as windows using their_shares
where {_KEY} and (windows.listener_count <= 1 or windows.listen_count <= their_shares.listens)
"""
_LESSENED = f"""
update raw.trending_windows as windows
set
    listen_count = windows.listen_count - their_shares.listens,
    listener_count = windows.listener_count - 1,
    updated_at = now()
from their_shares
where {_KEY}
"""
# Under a new load, dbt counts the windows of these listens again: they are the others' in the same windows.
_COUNTED_AGAIN = """
update raw.stream_listens as listens
set load_id = %(load_id)s
where
    not user_name = any(%(names)s)
    and exists (
        select 1 from their_listens as theirs
        where
            theirs.listened_at > listens.listened_at - %(length)s
            and theirs.listened_at < listens.listened_at + %(length)s
    )
"""
_LOAD = """
insert into raw.stream_loads (load_id, events, listens, refused, committed_at)
values (%s, 0, %s, 0, clock_timestamp())
"""
_RECOMPUTED_ALONE = """
delete from marts.trending_recomputed as windows
where
    exists (
        select 1 from their_listens as theirs
        where theirs.listened_at >= windows.window_start and theirs.listened_at < windows.window_end
    )
    and not exists (
        select 1 from raw.stream_listens as listens
        where
            listens.listened_at >= windows.window_start and listens.listened_at < windows.window_end
            and not listens.user_name = any(%(names)s)
            and listens.listened_at <= listens.kafka_timestamp + %(clock_ahead)s
    )
"""


def forget_windows(connection: psycopg.Connection, settings: Settings, names: list[str]) -> dict[str, int]:
    """Take a person's share out of the windows, in the caller's transaction; return rows by table.

    Call it while raw.stream_listens still has the listens of `names` (all spellings). The sink and the trending job
    wait from here on until the transaction ends.
    """
    connection.execute("lock table raw.stream_listens in share row exclusive mode")
    connection.execute(LOCK_WINDOWS)
    parameters = {
        "names": names,
        "cap": settings.trending_listens_per_user,
        "clock_ahead": timedelta(seconds=settings.trending_clock_ahead_seconds),
        "length": timedelta(minutes=settings.trending_window_minutes),
        "load_id": new_load_id(),
    }
    connection.execute("set local client_min_messages to warning")
    connection.execute(_THEIRS, parameters)
    connection.execute(_SHARES, parameters)
    days = connection.execute(
        "select distinct cast(floor(extract(epoch from window_start) / 86400) as integer) from their_shares"
    ).fetchall()
    files = DayFiles(settings.archive_dir / "trending_windows", WINDOWS_FILE)
    for (day,) in days:  # written anew from the table, when it is looked at next
        files.path(day).unlink(missing_ok=True)
    emptied = connection.execute(_EMPTIED.encode()).rowcount
    lessened = connection.execute(_LESSENED.encode()).rowcount
    if again := connection.execute(_COUNTED_AGAIN, parameters).rowcount:
        connection.execute(_LOAD, [parameters["load_id"], again])
    changed = {"raw.trending_windows": emptied + lessened}
    if connection.execute("select to_regclass('marts.trending_recomputed')").fetchone() != (None,):
        changed["marts.trending_recomputed"] = connection.execute(_RECOMPUTED_ALONE, parameters).rowcount
    return changed


def forget_archive(settings: Settings, is_person: Callable[[str], bool]) -> int:
    """Take a person out of the Parquet archive, and write what is due of the windows'; return how many files changed.

    Call it when the tables have nothing of the person any more. Raises `PulseError` for a folder that can't be written.
    """
    login = settings.credentials("loader")
    listens, windows = settings.archive_dir / "listens", settings.archive_dir / "trending_windows"
    changed = 0
    try:
        if listens.is_dir():
            with FileLock(listens / ".lock"):
                for aside in listens.glob("day=*/.*.new"):
                    aside.unlink()
                changed = sum(_rewritten(path, is_person) for path in sorted(listens.glob("day=*/listens.parquet")))
            ListensArchive(login, listens).update()
        if windows.is_dir():
            archive_windows(login, windows)
    except OSError as error:
        raise PulseError(f"can't write the archive {settings.archive_dir}: {error.strerror or error}") from error
    return changed


def _rewritten(path: Path, is_person: Callable[[str], bool]) -> bool:
    """Write the file without the person; one that holds nobody else is removed, with its folder."""
    names = pq.read_table(path, columns=["user_name"])["user_name"].unique().to_pylist()
    theirs = [name for name in names if is_person(name)]
    if not theirs:
        return False
    if len(theirs) == len(names):
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
        return True
    table = pq.ParquetFile(path).read()
    kept = table.filter(pa.compute.invert(pa.compute.is_in(table["user_name"], pa.array(theirs, pa.string()))))
    aside = path.with_name(f".{path.name}.new")
    pq.write_table(kept.replace_schema_metadata(None), aside, compression="zstd")
    aside.replace(path)
    return True
