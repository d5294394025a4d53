"""What each format makes of its records, and the rows made of that: Play -> raw.listens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import msgspec
import pyarrow as pa

from extract.exports.records import Records
from extract.rows import LISTENS_SCHEMA, RowBuilder, listens_table, timestamps
from music_pulse.errors import InputError
from music_pulse.identity import md5
from music_pulse.listens import MAX_DURATION_MS, MIN_LISTENED_AT, RefusedListen, is_name, validate

_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = datetime(1970, 1, 1, tzinfo=UTC)
_CACHE_SIZE = 200_000
_TOGETHER = 100
"""Records that are added in one go: one that is out of the ordinary makes so many slow."""


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


Values = tuple[
    Any, Any, Any, Any, int | None, int | None, bytes | None, bytes | None, str | None, str | None, str | None
]
"""The values of a `Play`, as a plain tuple: it is made in an eighth of the time."""

ToPlay = Callable[[Any], Values | None]
"""Makes a play of a record; None for what is no music (a podcast, a track still playing). Raises `RefusedListen`."""

Decode = Callable[[Any], Any]
"""Reads a record for `ToPlay`. Raises `msgspec.DecodeError`."""


@dataclass
class PlayBuilder(RowBuilder):
    """Collects plays of one user (`user_name`) and file (`origin`)."""

    _columns: list[list[Any]] = field(default_factory=lambda: [[] for _ in Play._fields])
    _passed: set[str] = field(default_factory=set)
    """Names that were validated already: most plays repeat them. Bounded."""

    def add_plays(self, records: Records, decode: Decode, to_play: ToPlay, name: str) -> None:
        """Add records; one that is no play is refused, with its position in the file `name`.

        Raises `InputError` for one that isn't UTF-8.
        """
        for start in range(0, len(records.values), _TOGETHER):
            some = slice(start, start + _TOGETHER)
            block = Records(records.first + start, records.values[some], records.payloads[some])
            if not self._add_all(block, decode, to_play):
                self._add_each(block, decode, to_play, name)

    def _add_all(self, records: Records, decode: Decode, to_play: ToPlay) -> bool:
        """Add records in one go; if one of them is out of the ordinary, add none and return False."""
        try:
            plays = [*map(to_play, map(decode, records.values))]
        except (ValueError, ArithmeticError, msgspec.DecodeError):
            return False
        hashes = [md5(payload).digest() for payload in records.payloads]
        passed_over = plays.count(None)
        if passed_over:
            hashes = [digest for digest, play in zip(hashes, plays, strict=True) if play is not None]
        columns = [*zip(*(play for play in plays if play is not None), strict=True)]
        if columns:
            if not self._are_valid(*columns[:4]):
                return False
            for column, values in zip(self._columns, columns, strict=True):
                column += values
        self._hashes += hashes
        self.passed_over += passed_over
        return True

    def _are_valid(
        self, times: Sequence[Any], artists: Sequence[Any], tracks: Sequence[Any], albums: Sequence[Any]
    ) -> bool:
        """Whether `validate` would return all these as they are."""
        if {*map(type, times)} != {int} or min(times) < MIN_LISTENED_AT or max(times) >= self.clock():
            return False
        named_albums = {*albums}
        named_albums.discard(None)
        new = {*artists, *tracks, *named_albums} - self._passed
        if not all(map(is_name, new)):
            return False
        if len(self._passed) > _CACHE_SIZE:
            self._passed.clear()
        self._passed |= new
        return True

    def _add_each(self, records: Records, decode: Decode, to_play: ToPlay, name: str) -> None:
        """Add records one by one."""
        now = self.clock()
        pairs = zip(records.values, records.payloads, strict=True)
        for number, (record, payload) in enumerate(pairs, records.first):
            digest = md5(payload).digest()
            try:
                play = to_play(decode(record))
                if play is None:
                    self.passed_over += 1
                    continue
                play = self._validated(play, now)
            except RefusedListen as error:
                self._refuse(str(error), bytes(payload), digest, (name, number))
            except msgspec.ValidationError as error:
                self._refuse(str(error), bytes(payload), digest, (name, number))
            except UnicodeDecodeError:
                raise InputError(f"record {number} isn't UTF-8: save the file in that encoding") from None
            except msgspec.DecodeError:
                self._refuse("not JSON", bytes(payload), digest, (name, number))
            except (ValueError, ArithmeticError) as error:
                self._refuse(f"can't be read: {error}", bytes(payload), digest, (name, number))
            else:
                for column, value in zip(self._columns, play, strict=True):
                    column.append(value)
                self._hashes.append(digest)

    def _validated(self, play: Values, now: float) -> Values:
        """Return `play` as valid. Raises `RefusedListen`."""
        listened_at, artist_name, track_name, album, *_ = play
        metadata = {"artist_name": artist_name, "track_name": track_name, "release_name": album}
        listen = {"listened_at": listened_at, "track_metadata": metadata}
        valid = validate(listen, now=now, user_name=self.user_name)
        return valid.listened_at, artist_name, track_name, valid.album, *play[4:]

    def _listens_table(self) -> pa.Table:
        if not self._hashes:
            return LISTENS_SCHEMA.empty_table()
        count = len(self._hashes)
        columns: dict[str, Any] = dict(zip(Play._fields, self._columns, strict=True))
        self._columns = [[] for _ in Play._fields]
        seconds = columns["listened_at"]
        columns["user_name"] = [self.user_name] * count
        columns["listened_at"] = timestamps(seconds)
        for name in ("recording_msid", "mbid_mapping", "inserted_at"):
            columns[name] = pa.nulls(count, LISTENS_SCHEMA.field(name).type)
        return listens_table(columns, self._identifier, seconds, self.source, self.origin, self._hashes)


def utc_seconds(text: str) -> int:
    """Read `2022-12-01 00:03` (UTC) as seconds since 1970. Raises `RefusedListen`."""
    try:
        since = datetime.fromisoformat(text) - _EPOCH
    except (ValueError, TypeError):
        raise RefusedListen("its time can't be read") from None
    return since.days * 86400 + since.seconds


_MONTHS = {name: number for number, name in enumerate("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)}


def utc_seconds_of_words(text: str) -> int:
    """Read `23 Feb 2016 17:59` or `23 Feb 2016, 17:59` (UTC) as seconds since 1970. Raises `RefusedListen`."""
    try:
        day, month, year, time = text.replace(",", "").split()
        hour, minute = time.split(":")
        since = datetime(int(year), _MONTHS[month], int(day), int(hour), int(minute)) - _EPOCH
    except (ValueError, KeyError, OverflowError):
        raise RefusedListen("its time can't be read") from None
    return since.days * 86400 + since.seconds


def utc_seconds_of(moment: datetime) -> int:
    """Return the whole seconds since 1970 of a time with a time zone; faster than its `timestamp`."""
    since = moment - _EPOCH_UTC
    return since.days * 86400 + since.seconds


Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=MAX_DURATION_MS)]
"""How long something was played."""

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""RFC 3339 with a time zone."""


def length_ms(seconds: float | None) -> int | None:
    """Return the length of a track in milliseconds; None for what no length can be."""
    if not seconds:
        return None
    milliseconds = seconds * 1000
    return int(milliseconds) if 1 <= milliseconds <= MAX_DURATION_MS else None
