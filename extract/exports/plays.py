"""What each format makes of its records, and the rows made of that: Play -> raw.listens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import md5
from typing import Any, NamedTuple

import orjson
import pyarrow as pa

from extract.exports.json_values import Malformed, Values
from extract.rows import LISTENS_SCHEMA, RowBuilder, listens_table, timestamps
from music_pulse.listens import MAX_DURATION_MS, MIN_LISTENED_AT, RefusedListen, to_json, uuid_bytes, validate

_EPOCH = datetime(1970, 1, 1)
_CACHE_SIZE = 200_000


class Play(NamedTuple):
    """One play of a track, as a format tells it; `listened_at` is its start, in seconds since 1970, UTC."""

    listened_at: Any
    artist_name: Any
    track_name: Any
    album: Any = None
    duration_ms: int | None = None
    """Length of the track."""
    played_ms: int | None = None
    """For how long it was played; None where the format doesn't say."""
    recording_mbid: bytes | None = None
    release_mbid: bytes | None = None
    artist_mbids: str | None = None
    """A JSON list."""
    submission_client: str | None = None
    additional_info: str | None = None
    """A JSON object."""


ToPlay = Callable[[Any], Play | None]
"""Reads one record; None for what is no music (a podcast, a track still playing). Raises `RefusedListen`."""


@dataclass
class PlayBuilder(RowBuilder):
    """Collects plays of one user (`user_name`) and file (`origin`)."""

    _passed: set[str] = field(default_factory=set)
    """Names that were validated already: most plays repeat them. Bounded."""

    def add_plays(self, records: Values, to_play: ToPlay, name: str) -> None:
        """Add records; one that is no play is refused, with its position in the file `name`."""
        now = self.clock()
        passed, values, hashes = self._passed, self._values, self._hashes
        for number, record in enumerate(records.values, records.first):
            payload = _payload(record)
            digest = md5(payload, usedforsecurity=False).digest()
            try:
                play = to_play(record)
                if play is None:
                    self.passed_over += 1
                    continue
                if not (
                    play[1] in passed
                    and play[2] in passed
                    and (play[3] is None or play[3] in passed)
                    and type(play[0]) is int
                    and MIN_LISTENED_AT <= play[0] < now
                ):
                    play = self._validated(play, now)
            except RefusedListen as error:
                self._refuse(str(error), payload, digest, (name, number))
            except (AttributeError, LookupError, TypeError, ValueError, OverflowError):
                reason = "not JSON" if isinstance(record, Malformed) else "not a record of this format"
                self._refuse(reason, payload, digest, (name, number))
            else:
                values += play
                hashes.append(digest)

    def _validated(self, play: Play, now: float) -> Play:
        """Return `play` as valid. Raises `RefusedListen`."""
        metadata = {"artist_name": play.artist_name, "track_name": play.track_name, "release_name": play.album}
        listen = {"listened_at": play.listened_at, "track_metadata": metadata}
        valid = validate(listen, now=now, user_name=self.user_name)
        if len(self._passed) > _CACHE_SIZE:
            self._passed.clear()
        self._passed.update((valid.artist_name, valid.track_name), () if valid.album is None else (valid.album,))
        return play._replace(listened_at=valid.listened_at, album=valid.album)

    def _listens_table(self) -> pa.Table:
        if not self._hashes:
            return LISTENS_SCHEMA.empty_table()
        width, count = len(Play._fields), len(self._hashes)
        columns: dict[str, Any] = {name: self._values[place::width] for place, name in enumerate(Play._fields)}
        seconds = columns["listened_at"]
        columns["user_name"] = [self.user_name] * count
        columns["listened_at"] = timestamps(seconds)
        for name in ("recording_msid", "mbid_mapping", "inserted_at"):
            columns[name] = pa.nulls(count, LISTENS_SCHEMA.field(name).type)
        return listens_table(columns, self._identifier, seconds, self.source, self.origin, self._hashes)


def _payload(record: Any) -> bytes:
    if isinstance(record, Malformed):
        return record.payload
    try:
        return orjson.dumps(record)
    except TypeError:  # lone surrogates, integers beyond 64 bits
        return to_json(record).encode()


def utc_seconds(text: str) -> int:
    """Read an ISO date and time as seconds since 1970; without a zone it is UTC. Raises `ValueError`."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is not None:
        return int(moment.timestamp())
    since = moment - _EPOCH
    return since.days * 86400 + since.seconds


_MONTHS = {name: number for number, name in enumerate("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)}


def utc_seconds_of_words(text: str) -> int:
    """Read `23 Feb 2016 17:59` or `23 Feb 2016, 17:59` (UTC) as seconds since 1970. Raises `ValueError`."""
    day, month, year, time = text.replace(",", "").split()
    if month not in _MONTHS:
        raise ValueError(text)
    hour, minute = time.split(":")
    since = datetime(int(year), _MONTHS[month], int(day), int(hour), int(minute), tzinfo=UTC)
    return int(since.timestamp())


def milliseconds(value: Any, factor: int = 1) -> int | None:
    """Return a length in milliseconds, `value` times `factor`; None for what no length can be."""
    if type(value) is not int and type(value) is not float:
        return None
    length = int(value * factor)
    return length if 0 <= length <= MAX_DURATION_MS else None


class _Mbids(dict[Any, bytes | None]):
    """UUID in text form -> its bytes, each computed once. Bounded."""

    def __missing__(self, text: Any) -> bytes | None:
        if len(self) > _CACHE_SIZE:
            self.clear()
        value = self[text] = uuid_bytes(text)
        return value


MBIDS = _Mbids()
"""`MBIDS[text]` is a UUID's bytes, None for anything else."""
