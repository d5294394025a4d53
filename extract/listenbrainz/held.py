"""What we hold of a ListenBrainz user: the raw rows that came from the API and that no tombstone binds.

A listen is held once, however many rows it has: by (listened_at, recording_msid), as ListenBrainz' own table; a
refused record, by its payload.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable
from typing import Any, NamedTuple

import psycopg

from extract.listenbrainz.differences import Group
from extract.listenbrainz.windows import Interval
from extract.tombstones import is_bound
from music_pulse.errors import UnknownUserError
from music_pulse.listens import from_json

_LIVE = f"""
    raw_rows.source = 'listenbrainz'
    and lower(raw_rows.user_name) = lower(%(user)s)
    and not {is_bound("raw_rows")}
"""
"""ListenBrainz matches names ignoring case, and may change a name's case."""

_RECENT = "listens.inserted_at >= to_timestamp(%(recent_from)s)"

_COUNT = f"""
    select
        count(*),
        count(*) filter (where {_RECENT}),
        cast(extract(epoch from min(listens.listened_at)) as bigint),
        cast(extract(epoch from max(listens.listened_at)) as bigint),
        cast(extract(epoch from min(listens.listened_at) filter (where {_RECENT})) as bigint),
        cast(extract(epoch from max(listens.listened_at) filter (where {_RECENT})) as bigint)
    from (
        select raw_rows.listened_at, max(raw_rows.inserted_at) as inserted_at
        from raw.listens as raw_rows
        where {_LIVE}
        group by raw_rows.listened_at, raw_rows.recording_msid
    ) as listens
"""

_TIMES = f"""
    select cast(extract(epoch from listens.listened_at) as bigint)
    from (
        select distinct raw_rows.listened_at, raw_rows.recording_msid
        from raw.listens as raw_rows
        where {_LIVE}
    ) as listens
    order by 1
"""

_ROWS = f"""
    select
        raw_rows.payload_hash, raw_rows.user_name, cast(extract(epoch from raw_rows.listened_at) as bigint),
        raw_rows.recording_msid, raw_rows.listen_id
    from raw.listens as raw_rows
    where
        {_LIVE}
        and raw_rows.listened_at >= to_timestamp(%(start)s)
        and raw_rows.listened_at < to_timestamp(%(end)s)
"""

_REFUSED = f"""
    select distinct raw_rows.payload_hash, raw_rows.user_name, raw_rows.payload
    from raw.quarantine as raw_rows
    where {_LIVE}
"""

_DELETED = """
    select
        count(*),
        cast(extract(epoch from min(listened_at)) as bigint),
        cast(extract(epoch from max(listened_at)) as bigint)
    from (
        select distinct listened_at, recording_msid
        from raw.listen_tombstones
        where
            reason = 'deleted'
            and lower(user_name) = lower(%(user)s)
            and seen_at >= to_timestamp(%(start)s)
            and seen_at < to_timestamp(%(end)s)
    ) as deleted
"""

_NAME = """
    select user_name from raw.listen_counts
    where lower(user_name) = lower(%(user)s)
    order by checked_at desc, _dlt_load_id collate "C" desc
    limit 1
"""

_USERS = """
    select distinct on (lower(user_name)) user_name from raw.listen_counts
    order by lower(user_name), checked_at desc, _dlt_load_id collate "C" desc
"""

_LAST_SECOND = 253_402_300_799


class Row(NamedTuple):
    """A raw row that is held; ids as 16 bytes, `second` since 1970."""

    payload_hash: bytes
    user_name: str
    second: int
    recording_msid: bytes | None
    listen_id: bytes | None
    """None for a record in quarantine."""

    @property
    def listen(self) -> Hashable:
        """What ListenBrainz calls one listen."""
        return (self.second, self.recording_msid) if self.listen_id else self.payload_hash


class Tally(NamedTuple):
    """How much is held of a user."""

    listens: int
    recent: Group | None
    """Those that ListenBrainz took in lately."""
    span: Interval | None
    """From the first second with a listen to the one after the last; None without listens."""


class HeldListens:
    """What is held of one user. Reads with the landing's own connection, under its lock."""

    def __init__(self, connection: psycopg.Connection, user_name: str) -> None:
        self._connection = connection
        self._user_name = user_name
        self.refused: dict[bytes, Row | None] = {}
        """Records in quarantine by payload hash; None where they tell no time, so that no window holds them."""
        self.refresh()

    def refresh(self) -> None:
        """Read the quarantine again."""
        rows = self._connection.execute(_REFUSED.encode(), self._parameters()).fetchall()
        self.refused = {
            digest.bytes: None if (second := _second(payload)) is None else Row(digest.bytes, name, second, None, None)
            for digest, name, payload in rows
        }

    def tally(self, *, recent_from: int) -> Tally:
        """Count the listens held, and those that ListenBrainz took in since `recent_from`."""
        row = self._connection.execute(_COUNT.encode(), self._parameters(recent_from=recent_from)).fetchone()
        assert row is not None
        listens, recent, first, last, recent_first, recent_last = row
        return Tally(
            listens + len(self.refused),
            Group(recent, (recent_first, recent_last + 1)) if recent else None,
            None if first is None else (first, last + 1),
        )

    def deleted(self, found: Interval) -> Group | None:
        """Return the listens that were found to be deleted in the seconds `found`."""
        start, end = found
        row = self._connection.execute(_DELETED, self._parameters(start=start, end=end)).fetchone()
        assert row is not None
        listens, first, last = row
        return Group(listens, (first, last + 1)) if listens else None

    def times(self) -> array[int]:
        """Return the second of every listen held, sorted."""
        with self._connection.transaction(), self._connection.cursor("held_times") as cursor:
            cursor.itersize = 20_000
            found = array("q", (second for (second,) in cursor.execute(_TIMES.encode(), self._parameters())))
        placed = [row.second for row in self.refused.values() if row]
        return array("q", sorted([*found, *placed])) if placed else found

    def rows(self, window: Interval) -> dict[bytes, Row]:
        """Return the rows held of `window`, by payload hash."""
        start, end = window
        cursor = self._connection.execute(_ROWS.encode(), self._parameters(start=start, end=end))
        found = {
            digest.bytes: Row(digest.bytes, name, second, msid and msid.bytes, listen_id.bytes)
            for digest, name, second, msid, listen_id in cursor
        }
        placed = {digest: row for digest, row in self.refused.items() if row and start <= row.second < end}
        return found | placed

    def _parameters(self, **others: int) -> dict[str, Any]:
        return {"user": self._user_name, **others}


def known_name(connection: psycopg.Connection, user: str) -> str | None:
    """Return how ListenBrainz last spelt `user`; None for one that was never read."""
    row = connection.execute(_NAME, {"user": user}).fetchone()
    return row[0] if row else None


def known_users(connection: psycopg.Connection) -> list[str]:
    """Return all users that were read from ListenBrainz."""
    return [name for (name,) in connection.execute(_USERS)]


def unknown_user(connection: psycopg.Connection, name: str, error: UnknownUserError) -> UnknownUserError:
    """Return what to raise when ListenBrainz has no user `name`: one that was read before was renamed there."""
    known = known_name(connection, name)
    if known is None:
        return error
    return UnknownUserError(
        f"ListenBrainz has no user {known!r} any more: renamed or deleted there; what is held stays as it is. "
        "Renamed: go on with pulse run --user NEW_NAME, and see docs/reconciliation.md, so that nothing counts twice",
        url=error.url,
        status=error.status,
    )


def _second(payload: str) -> int | None:
    """Return when a refused record says it was listened to, where that is a time at all."""
    try:
        second = from_json(payload.encode())["listened_at"]
    except (ValueError, TypeError, LookupError):
        return None
    return second if type(second) is int and 0 < second <= _LAST_SECOND else None
