"""Listens -> Arrow tables of `raw.listens` and `raw.quarantine`, a bounded batch at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from music_pulse.identity import Identifier, Identities, Track, md5
from music_pulse.listens import Listen, RefusedListen, escaped, from_json, to_json, validate, validate_line

BATCH_ROWS = 50_000
MAX_LINE = 4 * 1024 * 1024
"""Bytes; ListenBrainz takes listens of at most 10 kB, so a longer line is no listen."""
MAX_PAYLOAD_CHARS = 1_000_000
"""A longer refused payload is kept cut: Postgres takes no text beyond 1 GB."""

Position = tuple[str, int] | None
"""Where a record stands: file and line."""

_UUID = pa.binary(16)
_SECONDS = pa.timestamp("us", tz="UTC")

LISTENS_SCHEMA = pa.schema(
    [
        pa.field("listen_id", _UUID, nullable=False),
        pa.field("artist_id", _UUID, nullable=False),
        pa.field("track_id", _UUID, nullable=False),
        pa.field("user_name", pa.string(), nullable=False),
        pa.field("listened_at", _SECONDS, nullable=False),
        pa.field("artist_name", pa.string(), nullable=False),
        pa.field("track_name", pa.string(), nullable=False),
        pa.field("album", pa.string()),
        pa.field("artist_key", pa.string(), nullable=False),
        pa.field("track_key", pa.string(), nullable=False),
        pa.field("duration_ms", pa.int64()),
        pa.field("played_ms", pa.int64()),
        pa.field("recording_msid", _UUID),
        pa.field("recording_mbid", _UUID),
        pa.field("release_mbid", _UUID),
        pa.field("artist_mbids", pa.string()),
        pa.field("submission_client", pa.string()),
        pa.field("additional_info", pa.string()),
        pa.field("mbid_mapping", pa.string()),
        pa.field("inserted_at", _SECONDS),
        pa.field("source", pa.string(), nullable=False),
        pa.field("origin", pa.string()),
        pa.field("payload_hash", _UUID, nullable=False),
    ]
)
"""`raw.listens` as it is landed (dlt adds `_dlt_load_id`); see `extract/raw.sql`."""

QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("origin", pa.string()),
        pa.field("position", pa.string()),
        pa.field("user_name", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("payload", pa.string(), nullable=False),
        pa.field("payload_hash", _UUID, nullable=False),
        pa.field("seen_at", _SECONDS, nullable=False),
    ]
)
"""`raw.quarantine` as it is landed."""


@dataclass(frozen=True)
class Rows:
    """One batch, ready to land."""

    listens: pa.Table
    quarantine: pa.Table


@dataclass
class RowBuilder:
    """Collects listens of one source and origin and hands them out as `Rows`.

    `user_name` stands in where a listen names none; `known` are payload hashes that are landed already and are
    passed over.
    """

    source: str
    origin: str | None = None
    user_name: str | None = None
    clock: Callable[[], float] = time.time
    known: frozenset[bytes] = frozenset()
    landed: int = 0
    """Listens that were taken."""
    refused: int = 0
    """Records that were taken for the quarantine."""
    passed_over: int = 0
    """Records that are no listens, and needn't be."""
    _ids: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    """The first half of each listen_id that was taken: 8 bytes a row."""
    _identifier: Identifier = field(default_factory=Identifier)
    _values: list[Any] = field(default_factory=list)
    """The values of all listens, one after the other: far cheaper to keep and to cut into columns than rows."""
    _hashes: list[bytes] = field(default_factory=list)
    _refused: list[tuple[str | None, str | None, str, str, bytes]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._hashes) + len(self._refused)

    @property
    def is_full(self) -> bool:
        """Whether it is time to `take`."""
        return len(self._hashes) + len(self._refused) >= BATCH_ROWS

    @property
    def seen(self) -> int:
        """All records that were added and not known."""
        return self.landed + self.refused + self.passed_over + len(self)

    @property
    def repeats(self) -> int:
        """Listens that were taken more than once, each time but the first."""
        if not self._ids:
            return 0
        ids = np.sort(np.concatenate(self._ids))  # np.unique hashes, at many times the cost
        return int(np.count_nonzero(ids[1:] == ids[:-1]))

    def add_lines(self, lines: Iterable[bytes], first: int = 1, name: str | None = None) -> None:
        """Add listens that are lines of JSON, blank ones aside; one that can't be decoded is refused.

        `first` is the number of the first line in the file `name`.
        """
        now, known, user_name = self.clock(), self.known, self.user_name
        values, hashes = self._values, self._hashes
        for number, line in enumerate(lines, first):
            if not line:
                continue
            digest = md5(line).digest()
            if digest in known:
                continue
            try:
                valid = validate_line(line, now=now, user_name=user_name)
            except ValueError as error:
                reason = str(error) if isinstance(error, RefusedListen) else "not JSON"
                if len(line) > MAX_LINE:
                    reason = "longer than a listen can be"
                self._refuse(reason, line, digest, (name, number) if name else None)
            else:
                values += valid
                hashes.append(digest)

    def add(self, listen: Any, position: Position = None) -> None:
        """Add a decoded listen."""
        payload, digest = canonical(listen)
        if digest in self.known:
            return
        try:
            valid = validate(listen, now=self.clock(), user_name=self.user_name)
        except RefusedListen as error:
            self._refuse(str(error), payload, digest, position)
        else:
            self._values += valid
            self._hashes.append(digest)

    def _refuse(self, reason: str, payload: bytes, digest: bytes, position: Position) -> None:
        """Put a record into quarantine."""
        where = f"{position[0]}:{position[1]}" if position else None
        self._refused.append((where, self.user_name, reason, escaped(payload)[:MAX_PAYLOAD_CHARS], digest))

    def take(self) -> Rows:
        """Return what was collected, and start anew."""
        rows = Rows(listens=self._listens_table(), quarantine=self._quarantine_table())
        self._ids += [_first_halves(chunk) for chunk in rows.listens["listen_id"].chunks]
        self.landed += len(self._hashes)
        self.refused += len(self._refused)
        self._values, self._hashes, self._refused = [], [], []
        return rows

    def _listens_table(self) -> pa.Table:
        if not self._hashes:
            return LISTENS_SCHEMA.empty_table()
        width = len(Listen._fields)
        names = {name: self._values[place::width] for place, name in enumerate(Listen._fields)}
        columns: dict[str, Any] = {
            name: values for name, values in names.items() if name not in ("listened_at", "inserted_at")
        }
        columns["listened_at"] = timestamps(names["listened_at"])
        columns["inserted_at"] = timestamps([value and int(value) for value in names["inserted_at"]])
        return listens_table(columns, self._identifier, names["listened_at"], self.source, self.origin, self._hashes)

    def _quarantine_table(self) -> pa.Table:
        if not self._refused:
            return QUARANTINE_SCHEMA.empty_table()
        positions, users, reasons, payloads, hashes = zip(*self._refused, strict=True)
        count = len(self._refused)
        columns = {
            "source": [self.source] * count,
            "origin": [self.origin] * count,
            "position": positions,
            "user_name": users,
            "reason": reasons,
            "payload": payloads,
            "payload_hash": hashes,
            "seen_at": timestamps([int(self.clock())] * count),
        }
        return pa.table([columns[name] for name in QUARANTINE_SCHEMA.names], schema=QUARANTINE_SCHEMA)


def listens_table(
    columns: dict[str, Any],
    identifier: Identifier,
    listened_at: Sequence[int],
    source: str,
    origin: str | None,
    hashes: Sequence[bytes],
) -> pa.Table:
    """Complete `columns` (those of a `Listen`) by ids, keys, source and hashes to `LISTENS_SCHEMA`."""
    count = len(listened_at)
    ids = identifier.identify(columns["user_name"], listened_at, columns["artist_name"], columns["track_name"])
    complete = {
        "played_ms": pa.nulls(count, pa.int64()),
        **columns,
        **_track_columns(ids),
        "listen_id": ids.listen_ids,
        "source": pa.repeat(source, count),
        "origin": pa.repeat(pa.scalar(origin, pa.string()), count),
        "payload_hash": hashes,
    }
    return pa.table([complete[name] for name in LISTENS_SCHEMA.names], schema=LISTENS_SCHEMA)


def canonical(listen: Any) -> tuple[bytes, bytes]:
    """Return a decoded listen as JSON with sorted keys, and the hash by which raw knows that payload."""
    payload = to_json(listen).encode()
    return payload, md5(payload).digest()


def user_named(payload: str) -> str | None:
    """Return whose listen a refused record says it is."""
    try:
        name = from_json(payload.encode())["user_name"]
    except (ValueError, TypeError, LookupError):
        return None
    return name if isinstance(name, str) else None


def _track_columns(ids: Identities) -> dict[str, pa.Array]:
    """Make the columns that listens of one track share, each distinct value once."""
    tracks = pa.array(ids.numbers, pa.int32()).dictionary_encode()
    distinct = [ids.tracks[number] for number in tracks.dictionary.to_pylist()]
    return {
        name: pa.array([track[place] for track in distinct], LISTENS_SCHEMA.field(name).type).take(tracks.indices)
        for place, name in enumerate(Track._fields)
        if name in LISTENS_SCHEMA.names
    }


def _first_halves(ids: pa.Array) -> npt.NDArray[np.uint64]:
    """Return the first 8 of the 16 bytes of each id (two of a billion listens share them once in 40 times)."""
    return np.frombuffer(ids.buffers()[1], np.uint64)[2 * ids.offset :][: 2 * len(ids) : 2].copy()


def timestamps(seconds: Any) -> pa.Array:
    """Make a timestamp column (microseconds, UTC) of a sequence of seconds since 1970."""
    return pa.array(seconds, pa.int64()).cast(pa.timestamp("s", tz="UTC")).cast(_SECONDS)
