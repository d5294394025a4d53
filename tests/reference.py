"""What the marts must hold, computed a second time in plain Python, straight from the input lines.

Written from the rules (what a listen is, which row wins, what is refused), sharing no code with the product: its own
folding of names, its own hashes, its own reading of numbers. Slow and simple on purpose.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

FIRST_SECOND = int(datetime(2002, 10, 1, tzinfo=UTC).timestamp())
LONGEST_MS = 24 * 24 * 3600 * 1000
NEAR_SECONDS = 60
SESSION_GAP_SECONDS = 30 * 60
ONE_DAY = timedelta(days=1)
VARIOUS_ARTISTS = "89ad4ac3-39f7-470e-963a-56509c546377"
CREDITS = re.compile(r" (?:feat|ft|featuring|with|and|x|vs)\.? | [&+/] |; |, (?!the )")

T = TypeVar("T")
Aggregates = dict[tuple[date, str, str], float]


class Refused(Exception):
    """Why a line is no listen."""


@dataclass(frozen=True)
class Row:
    """One accepted line."""

    user_id: str
    listened_at: int
    artist: str
    track: str
    album: str | None
    duration_ms: int | None
    recording_msid: str | None
    recording_mbid: str | None
    client: str | None
    payload_hash: str
    artist_mbids: tuple[str, ...] = ()

    @property
    def listen_id(self) -> str:
        return digest(fold(self.user_id), str(self.listened_at), fold(self.artist), fold(self.track))

    @property
    def artist_id(self) -> str:
        return digest(fold(self.artist))

    @property
    def track_id(self) -> str:
        return digest(fold(self.artist), fold(self.track))

    @property
    def preference(self) -> tuple[Any, ...]:
        """Smallest first: longest known duration, album present, MSID, hash of the line, spelling of the user."""
        known = self.duration_ms is not None
        return (
            not known,
            -(self.duration_ms or 0),
            self.album is None,
            self.recording_msid is None,
            self.recording_msid or "",
            self.payload_hash,
            self.user_id,
        )


@dataclass(frozen=True)
class Heard:
    """A listen as the entities that it counts for."""

    user_id: str
    duration_ms: int | None
    artist_id: str
    track_id: str


@dataclass
class Expected:
    """Everything the marts say about some lines."""

    rows: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    listens: dict[str, Row] = field(default_factory=dict)
    days: dict[str, date] = field(default_factory=dict)
    hours: dict[str, int] = field(default_factory=dict)
    near_duplicates: dict[str, str] = field(default_factory=dict)
    """{listen_id: the kept listen}; they are no `listens`."""
    redirects: dict[str, str] = field(default_factory=dict)
    """{artist_id or track_id: that of the entity}, where it is another."""

    @property
    def duplicates(self) -> int:
        return self.rows - len(self.listens) - len(self.near_duplicates)

    def by_day(self) -> dict[date, list[Heard]]:
        found = defaultdict(list)
        for listen_id, row in self.listens.items():
            found[self.days[listen_id]].append(self.heard(row))
        return found

    def heard(self, row: Row) -> Heard:
        artist_id, track_id = self.entity(row.artist_id), self.entity(row.track_id)
        return Heard(row.user_id, row.duration_ms, artist_id, track_id)

    def entity(self, identity: str) -> str:
        return self.redirects.get(identity, identity)

    def names(self) -> dict[tuple[str, str], tuple[str, str | None]]:
        """Return {(kind, id of an entity): (its most listened spelling, that of its artist)}."""
        tracks, artists = self.tracks(), self.artists()
        artist_names = self._leaders({key: (row["artist_name"], row["listens"]) for key, row in artists.items()})
        track_names = self._leaders({key: (row["track_name"], row["listens"]) for key, row in tracks.items()})
        found: dict[tuple[str, str], tuple[str, str | None]]
        found = {("artist", key): (name, None) for key, name in artist_names.items()}
        for key, name in track_names.items():
            found["track", key] = name, artist_names[tracks[key]["canonical_artist_id"]]
        return found

    def _leaders(self, spellings: Mapping[str, tuple[str, int]]) -> dict[str, str]:
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for identity, (name, listens) in spellings.items():
            counts[self.entity(identity)][name] += listens
        return {key: min(names, key=lambda name: (-names[name], name)) for key, names in counts.items()}

    def aggregates(self) -> Aggregates:
        """Return `daily_aggregates` as {(day, metric, dimension): value}."""
        found: Aggregates = {}
        for day, rows in self.by_day().items():
            groups: dict[str, list[Heard]] = defaultdict(list)
            for row in rows:
                groups["all"].append(row)
                groups[f"user:{row.user_id}"].append(row)
                groups[f"artist:{row.artist_id}"].append(row)
                groups[f"track:{row.track_id}"].append(row)
            for dimension, members in groups.items():
                for metric, value in _metrics(dimension, members).items():
                    found[day, metric, dimension] = value
        return found

    def user_daily_tracks(self) -> dict[tuple[date, str, str], tuple[int, float, int]]:
        """Return {(day, user_id, track_id): (listens, minutes, listens without duration)}."""
        groups = defaultdict(list)
        for listen_id, row in self.listens.items():
            groups[self.days[listen_id], row.user_id, self.entity(row.track_id)].append(self.heard(row))
        return {key: (len(rows), _minutes(rows), _unknown(rows)) for key, rows in groups.items()}

    def user_daily_hours(self) -> dict[tuple[str, date, int], tuple[int, float]]:
        """Return {(user_id, day, hour): (listens, minutes)}."""
        groups = defaultdict(list)
        for listen_id, row in self.listens.items():
            groups[row.user_id, self.days[listen_id], self.hours[listen_id]].append(self.heard(row))
        return {key: (len(rows), _minutes(rows)) for key, rows in groups.items()}

    def user_sessions(self) -> dict[tuple[str, int], tuple[int, date, int, float]]:
        """Return {(user_id, start): (start of the last listen, day, listens, minutes)}, times in seconds since 1970."""
        sessions: list[list[tuple[str, Row]]] = []
        for listen_id, row in sorted(self.listens.items(), key=lambda item: (item[1].user_id, item[1].listened_at)):
            before = sessions[-1][-1][1] if sessions else None
            if before and before.user_id == row.user_id and row.listened_at - before.listened_at <= SESSION_GAP_SECONDS:
                sessions[-1].append((listen_id, row))
            else:
                sessions.append([(listen_id, row)])
        return {
            (first.user_id, first.listened_at): (
                session[-1][1].listened_at, self.days[first_id], len(session),
                _minutes([self.heard(row) for _, row in session]),
            )
            for session in sessions
            for first_id, first in session[:1]
        }  # fmt: skip

    def user_discoveries(self) -> dict[tuple[str, str], date]:
        """Return {(user_id, artist_id): first day}."""
        found: dict[tuple[str, str], date] = {}
        for listen_id, row in self.listens.items():
            key = row.user_id, self.heard(row).artist_id
            found[key] = min(found.get(key, date.max), self.days[listen_id])
        return found

    def user_streaks(self) -> dict[tuple[str, date], tuple[date, int]]:
        """Return {(user_id, first day): (last day, days)}."""
        heard = {(row.user_id, self.days[listen_id]) for listen_id, row in self.listens.items()}
        found = {}
        for user, first in heard:
            if (user, first - ONE_DAY) not in heard:
                days = next(count for count in itertools.count(1) if (user, first + count * ONE_DAY) not in heard)
                found[user, first] = first + (days - 1) * ONE_DAY, days
        return found

    def top(self, size: int) -> dict[tuple[date, str], list[tuple[str, int, float]]]:
        """Return {(day, kind): [(id, listens, minutes)]}, best first."""
        found: dict[tuple[date, str], list[tuple[str, int, float]]] = {}
        keys = {row.track_id: (fold(row.artist), fold(row.track)) for row in self.listens.values()}
        keys |= {row.artist_id: (fold(row.artist), "") for row in self.listens.values()}
        for day, rows in self.by_day().items():
            found[day, "artist"] = _best(_grouped(rows, lambda row: row.artist_id), keys, size)
            found[day, "track"] = _best(_grouped(rows, lambda row: row.track_id), keys, size)
        return found

    def tracks(self) -> dict[str, dict[str, Any]]:
        """Return what marts.tracks says, by track_id."""
        return {
            track_id: {
                "track_name": _usual(row.track for row in rows),
                "artist_id": rows[0].artist_id,
                "album": _usual(row.album for row in rows),
                "recording_mbid": _usual(row.recording_mbid for row in rows),
                "duration_ms": max((row.duration_ms for row in rows if row.duration_ms is not None), default=None),
                "track_key": fold(rows[0].track),
                "artist_key": fold(rows[0].artist),
                "canonical_track_id": self.entity(track_id),
                "canonical_artist_id": self.entity(rows[0].artist_id),
                **_totals(rows),
            }
            for track_id, rows in _grouped(self.listens.values(), lambda row: row.track_id).items()
        }

    def artists(self) -> dict[str, dict[str, Any]]:
        """Return what marts.artists says, by artist_id."""
        return {
            artist_id: {
                "artist_name": _usual(row.artist for row in rows),
                "artist_key": fold(rows[0].artist),
                "canonical_artist_id": self.entity(artist_id),
                "tracks": len({row.track_id for row in rows}),
                **_totals(rows),
            }
            for artist_id, rows in _grouped(self.listens.values(), lambda row: row.artist_id).items()
        }


def expect(
    lines: Iterable[bytes],
    *,
    now: float,
    zones: Mapping[str, str] | None = None,
    time_zone: str = "UTC",
    files: Iterable[object] | None = None,
    near_seconds: int = NEAR_SECONDS,
    overrides: Mapping[str, str] | None = None,
    is_repaired: bool = True,
) -> Expected:
    """Read lines as they would be imported: all of them, in any order.

    `files` says for each line which file it came from (default: all from one), `overrides` which id is joined to which
    by hand, or `split`.
    """
    expected = Expected()
    candidates = defaultdict(list)
    origins = defaultdict(set)
    for line, file in zip(lines, files or itertools.repeat(0), strict=files is not None):
        try:
            row = read(line, now)
        except Refused as reason:
            expected.refused[str(reason)] += 1
        else:
            expected.rows += 1
            candidates[row.listen_id].append(row)
            origins[row.listen_id].add((file, row.client))
    best = {listen_id: min(rows, key=lambda row: row.preference) for listen_id, rows in candidates.items()}
    expected.near_duplicates = repeats(best, origins, near_seconds)
    for listen_id, row in best.items():
        if listen_id in expected.near_duplicates:
            continue
        zone = ZoneInfo((zones or {}).get(row.user_id, time_zone))
        expected.listens[listen_id] = row
        local = datetime.fromtimestamp(row.listened_at, zone)
        expected.days[listen_id], expected.hours[listen_id] = local.date(), local.hour
    if is_repaired:
        expected.redirects = entities(list(expected.listens.values()), overrides or {})
    return expected


def repeats(
    listens: Mapping[str, Row], origins: Mapping[str, set[tuple[object, str | None]]], near_seconds: int
) -> dict[str, str]:
    """Return {near-duplicate: the earliest kept listen close before it that shares no origin with it}."""
    found: dict[str, str] = {}
    kept: dict[tuple[str, str], list[str]] = defaultdict(list)
    for listen_id, row in sorted(listens.items(), key=lambda item: item[1].listened_at):
        before = kept[fold(row.user_id), row.track_id]
        for other in before:
            is_close = row.listened_at - listens[other].listened_at < near_seconds
            if is_close and not origins[other] & origins[listen_id]:
                found[listen_id] = other
                break
        else:
            before.append(listen_id)
    return found


def entities(rows: list[Row], overrides: Mapping[str, str]) -> dict[str, str]:
    """Return {id: id of the entity}: first of artists, then of tracks, whose artist is the entity."""
    there = {row.artist_id for row in rows} | {row.track_id for row in rows}
    found: dict[str, str] = {}

    def join(ids: set[str], evidence: dict[str, set[Any]]) -> None:
        groups = defaultdict(list)
        for identity in ids - overrides.keys():
            if len(evidence[identity]) == 1:
                groups[next(iter(evidence[identity]))].append(identity)
        found.update({identity: min(members) for members in groups.values() for identity in members})
        for identity, target in overrides.items():
            if identity in ids and target in there:
                found[identity] = found.get(target, target)

    artists: dict[str, set[Any]] = defaultdict(set)
    for row in rows:
        if row.artist_mbids:
            credits = len(CREDITS.split(fold(row.artist)))
            artists[row.artist_id].add((row.artist_mbids, max(credits, len(row.artist_mbids))))
    join({row.artist_id for row in rows}, artists)
    tracks: dict[str, set[Any]] = defaultdict(set)
    for row in rows:
        if row.recording_mbid:
            tracks[row.track_id].add((row.recording_mbid, found.get(row.artist_id, row.artist_id)))
    join({row.track_id for row in rows}, tracks)
    return {identity: entity for identity, entity in found.items() if identity != entity}


def fold(name: str) -> str:
    """NFC, then without outer white space, then in lower case."""
    composed = unicodedata.normalize("NFC", name)
    first, last = 0, len(composed)
    while first < last and composed[first].isspace():
        first += 1
    while last > first and composed[last - 1].isspace():
        last -= 1
    return composed[first:last].lower()


def digest(*parts: str) -> str:
    """Return the md5 of the parts, joined by the unit separator, in UUID form."""
    return str(UUID(hashlib.md5("\u001f".join(parts).encode("utf-8")).hexdigest()))


def read(line: bytes, now: float) -> Row:
    """Read one line. Raises `Refused`."""
    listen = _decode(line)
    if not isinstance(listen, dict):
        raise Refused("not a JSON object")
    metadata = listen.get("track_metadata")
    if not isinstance(metadata, dict):
        raise Refused("track_metadata is missing")
    info = metadata.get("additional_info")
    info = info if isinstance(info, dict) else {}
    mapping = metadata.get("mbid_mapping")
    mapping = mapping if isinstance(mapping, dict) else {}
    msid = listen.get("recording_msid") or metadata.get("recording_msid") or info.get("recording_msid")
    when = _when(listen.get("listened_at"), now)
    user = _name(listen.get("user_name") or None, "user_name")
    if len(user) > 255:
        raise Refused("user_name is longer than 255 characters")
    return Row(
        user_id=user,
        listened_at=when,
        artist=_name(metadata.get("artist_name"), "artist_name"),
        track=_name(metadata.get("track_name"), "track_name"),
        album=_album(metadata.get("release_name")),
        duration_ms=_duration(info),
        recording_msid=_uuid(msid),
        recording_mbid=_uuid(info.get("recording_mbid")) or _uuid(mapping.get("recording_mbid")),
        client=_client(info.get("submission_client")),
        payload_hash=hashlib.md5(line).hexdigest(),
        artist_mbids=_mbids(info.get("artist_mbids") or mapping.get("artist_mbids")),
    )


def _decode(line: bytes) -> Any:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + 1000)
    try:
        return json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refused("not JSON") from None
    finally:
        sys.setrecursionlimit(limit)


def _no_constant(name: str) -> Any:
    return float(name.replace("Infinity", "inf"))


def _when(value: Any, now: float) -> int:
    if value is None:
        raise Refused("listened_at is missing")
    number = value if type(value) is int else _number(value)
    if number is None:
        raise Refused("listened_at is not a number")
    if number < FIRST_SECOND:
        raise Refused("listened_at is before 2002-10-01")
    if int(number) >= now + 3600:
        raise Refused("listened_at is in the future")
    return int(number)


def _number(value: Any) -> float | None:
    """Numbers and numbers as text; not true, not NaN, nothing absurd."""
    if value is True or value is False or not isinstance(value, int | float | str):
        return None
    try:
        number = value if isinstance(value, int) else float(value)
    except ValueError:
        return None
    return number if -1e15 < number < 1e15 else None


def _name(value: Any, what: str) -> str:
    if value is None:
        raise Refused(f"{what} is missing")
    if not isinstance(value, str):
        raise Refused(f"{what} is not text")
    _refuse_unstorable(value, what)
    if fold(value) == "":
        raise Refused(f"{what} is blank")
    return value


def _album(value: Any) -> str | None:
    if not isinstance(value, str) or fold(value) == "":
        return None
    _refuse_unstorable(value, "release_name")
    return value


def _refuse_unstorable(value: str, what: str) -> None:
    if any(character == "\0" or 0xD800 <= ord(character) <= 0xDFFF for character in value):
        raise Refused(f"{what} has a NUL or a lone surrogate")


def _duration(info: Mapping[str, Any]) -> int | None:
    if info.get("duration_ms") is not None:
        number = _number(info["duration_ms"])
        milliseconds = None if number is None else int(number)
    else:
        number = _number(info.get("duration"))
        milliseconds = None if number is None else int(number) * 1000
    return milliseconds if milliseconds is not None and 0 < milliseconds <= LONGEST_MS else None


def _mbids(value: Any) -> tuple[str, ...]:
    """Return a list of UUIDs, none of them Various Artists; else nothing."""
    if not isinstance(value, list) or not all(isinstance(item, str) and len(item) == 36 for item in value):
        return ()
    found = [_uuid(item) for item in value]
    return () if None in found or VARIOUS_ARTISTS in found else tuple(filter(None, found))


def _client(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _uuid(value: Any) -> str | None:
    if not isinstance(value, str) or len(value) not in (32, 36):
        return None
    try:
        return str(UUID(value))
    except ValueError:
        return None


def _metrics(dimension: str, rows: list[Heard]) -> dict[str, float]:
    kind = dimension.split(":")[0]
    metrics: dict[str, float] = {
        "listens": len(rows),
        "minutes_listened": _minutes(rows),
        "listeners": len({row.user_id for row in rows}),
    }
    if kind != "track":
        metrics["distinct_tracks"] = len({row.track_id for row in rows})
    if kind in ("all", "user"):
        metrics["distinct_artists"] = len({row.artist_id for row in rows})
    if kind in ("all", "user") or _unknown(rows):
        metrics["listens_without_duration"] = _unknown(rows)
    return metrics


def _minutes(rows: list[Heard]) -> float:
    return sum(row.duration_ms or 0 for row in rows) / 60_000


def _unknown(rows: list[Heard]) -> int:
    return sum(row.duration_ms is None for row in rows)


def _grouped(rows: Iterable[T], by: Callable[[T], str]) -> dict[str, list[T]]:
    groups = defaultdict(list)
    for row in rows:
        groups[by(row)].append(row)
    return groups


def _best(
    groups: dict[str, list[Heard]], ties: Mapping[str, tuple[str, str]], size: int
) -> list[tuple[str, int, float]]:
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), ties[item[0]]))
    return [(identity, len(rows), _minutes(rows)) for identity, rows in ordered[:size]]


def _usual(values: Iterable[str | None]) -> str | None:
    """Return the most frequent known value; of several the smallest, in code-point order."""
    counts = Counter(value for value in values if value is not None)
    return min(counts, key=lambda value: (-counts[value], value), default=None)


def _totals(rows: list[Row]) -> dict[str, Any]:
    seconds = [row.listened_at for row in rows]
    return {
        "listens": len(rows),
        "listeners": len({row.user_id for row in rows}),
        "first_played_at": datetime.fromtimestamp(min(seconds), UTC),
        "last_played_at": datetime.fromtimestamp(max(seconds), UTC),
    }
