"""Listens as people make them: Zipf artists and tracks, sessions, day and week rhythm, several users and zones.

Deterministic by seed, on any machine: numpy's PCG64 is stable, and the end of time is fixed, not now. About one
listen in a hundred stands twice, some albums and durations are missing, some names aren't ASCII and some are spelt
in more than one way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import md5
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from extract.rows import BATCH_ROWS, LISTENS_SCHEMA, QUARANTINE_SCHEMA, Rows, listens_table, timestamps
from music_pulse.identity import Identifier

SOURCE = "synthetic"
END = int(datetime(2026, 6, 30, tzinfo=UTC).timestamp())
"""All listens are older than this."""

DUPLICATE_SHARE = 0.01
UNKNOWN_ALBUM_SHARE = 0.12
UNKNOWN_DURATION_SHARE = 0.08
OTHER_SPELLING_SHARE = 0.01
LISTENS_PER_DAY = 60
"""Of an average user."""

_ZONES = ("Europe/Berlin", "America/New_York", "Asia/Tokyo", "UTC", "Australia/Sydney", "America/Sao_Paulo")
_HOUR_WEIGHTS = np.array([2, 1, 1, 1, 1, 1, 2, 5, 8, 7, 6, 6, 7, 6, 6, 7, 8, 10, 12, 12, 11, 9, 7, 4], dtype=float)
_WEEKDAY_WEIGHTS = np.array([9, 9, 9, 10, 12, 13, 10], dtype=float)
_FIRST = (
    "Velvet",
    "Ночные",
    "Björk’s",
    "Iron",
    "東京",
    "Señor",
    "Quiet",
    "Los",
    "Åse",
    "Broken",
    "İstanbul",
    "Golden",
)
_SECOND = (
    "Sons",
    "Снайперы",
    "Sisters",
    "Harbour",
    "事変",
    "Coconut",
    "Machine",
    "Lobos",
    "Kleveland",
    "Social",
    "Trio",
    "Ear",
)
_NOUNS = (
    "Rain",
    "Feuer",
    "Corazón",
    "夜",
    "Звезда",
    "Mirror",
    "Été",
    "Wires",
    "Ghost",
    "Harvest",
    "Saudade",
    "Σίσυφος",
)
_ADJECTIVES = ("Long", "Blue", "Leise", "Última", "青い", "Тихая", "Slow", "Électrique", "Second", "Hidden")


@dataclass(frozen=True)
class Plan:
    """What to invent: how many rows, by how many users, from a catalogue of how many artists."""

    listens: int
    seed: int = 1
    users: int = 5
    artists: int = 3_000
    tracks_per_artist: int = 12

    @property
    def name(self) -> str:
        """A name that tells the plan, for the state."""
        return f"{self.listens}-{self.seed}-{self.users}-{self.artists}-{self.tracks_per_artist}"


@dataclass(frozen=True)
class Catalogue:
    """Distinct names, by track number: artist, track, album and length in milliseconds."""

    artist_names: list[str]
    track_names: list[str]
    albums: list[str]
    durations_ms: np.ndarray


def generate(plan: Plan) -> Iterator[Rows]:
    """Yield the plan's rows, a user after the other, in batches of at most `BATCH_ROWS`."""
    random = np.random.Generator(np.random.PCG64(plan.seed))
    catalogue = _catalogue(plan, random)
    identifier = Identifier()
    for user, count in enumerate(_split(plan.listens, plan.users)):
        start = 0
        end = END
        while start < count:
            size = min(BATCH_ROWS, count - start)
            seconds = _times(size, end, _ZONES[user % len(_ZONES)], random)
            end = int(seconds.min()) if len(seconds) else end
            yield _rows(f"synthetic_{user + 1}", seconds, user, catalogue, identifier, random)
            start += size


def _split(listens: int, users: int) -> list[int]:
    """Share the listens out unevenly: the first user listens most."""
    weights = np.array([1 / (user + 1) ** 0.5 for user in range(users)])
    counts = np.floor(listens * weights / weights.sum()).astype(int)
    counts[0] += listens - counts.sum()
    return [int(count) for count in counts]


def _catalogue(plan: Plan, random: np.random.Generator) -> Catalogue:
    artist_names = [
        f"{_FIRST[i % len(_FIRST)]} {_SECOND[i // len(_FIRST) % len(_SECOND)]} {i // (len(_FIRST) * len(_SECOND)) + 1}"
        for i in range(plan.artists)
    ]
    track_names, albums = [], []
    for i in range(plan.artists):
        for j in range(plan.tracks_per_artist):
            track_names.append(f"{_ADJECTIVES[(i + j) % len(_ADJECTIVES)]} {_NOUNS[j % len(_NOUNS)]} {j + 1}")
            albums.append(f"{_NOUNS[(i * 7 + j // 6) % len(_NOUNS)]} {j // 6 + 1}")
    lengths = np.clip(random.normal(225_000, 60_000, len(track_names)), 45_000, 900_000)
    return Catalogue(artist_names, track_names, albums, lengths.astype(np.int64))


def _times(count: int, end: int, zone: str, random: np.random.Generator) -> np.ndarray:
    """Return ascending seconds of `count` plays before `end`: sessions that start when people are awake."""
    sessions = max(1, count // 9)
    days = max(1, round(count / LISTENS_PER_DAY))
    offset = int(datetime.fromtimestamp(end, ZoneInfo(zone)).utcoffset().total_seconds())  # type: ignore[union-attr]
    day_numbers = np.arange((end + offset) // 86_400 - days, (end + offset) // 86_400)
    weekday_weights = _WEEKDAY_WEIGHTS[(day_numbers + 3) % 7]
    starts = random.choice(day_numbers, sessions, p=weekday_weights / weekday_weights.sum()) * 86_400
    starts += random.choice(24, sessions, p=_HOUR_WEIGHTS / _HOUR_WEIGHTS.sum()) * 3_600
    starts += random.integers(0, 3_600, sessions)
    session_of = np.sort(random.integers(0, sessions, count))
    position = np.arange(count) - np.searchsorted(session_of, session_of)
    gaps = random.integers(180, 300, count)
    seconds = np.sort(starts)[session_of] + position * gaps - offset
    return np.sort(np.minimum(seconds, end - 1))


def _rows(
    user_name: str,
    seconds: np.ndarray,
    user: int,
    catalogue: Catalogue,
    identifier: Identifier,
    random: np.random.Generator,
) -> Rows:
    count = len(seconds)
    tracks = _taste(count, user, catalogue, random)
    _plant_duplicates(seconds, tracks, random)
    artists = tracks // (len(catalogue.track_names) // len(catalogue.artist_names))
    artist_names = [catalogue.artist_names[i] for i in artists.tolist()]
    track_names = [catalogue.track_names[i] for i in tracks.tolist()]
    for i in np.flatnonzero(random.random(count) < OTHER_SPELLING_SHARE).tolist():
        artist_names[i] = artist_names[i].upper() + " "
    durations = pa.array(catalogue.durations_ms[tracks], mask=random.random(count) < UNKNOWN_DURATION_SHARE)
    has_album = (random.random(count) >= UNKNOWN_ALBUM_SHARE).tolist()
    columns = {name: pa.nulls(count, LISTENS_SCHEMA.field(name).type) for name in LISTENS_SCHEMA.names}
    columns |= {
        "user_name": pa.repeat(user_name, count).to_pylist(),
        "artist_name": artist_names,
        "track_name": track_names,
        "album": [catalogue.albums[i] if has else None for i, has in zip(tracks.tolist(), has_album, strict=True)],
        "duration_ms": durations,
        "listened_at": timestamps(seconds),
        "inserted_at": timestamps(seconds + 240),
        "submission_client": pa.repeat("music-pulse synthetic", count),
    }
    listened_at = seconds.tolist()
    hashes = [
        md5(f"{user_name}{second}{artist}{track}{duration}{album}".encode(), usedforsecurity=False).digest()
        for second, artist, track, duration, album in zip(
            listened_at, artist_names, track_names, durations.to_pylist(), columns["album"], strict=True
        )
    ]
    table = listens_table(columns, identifier, listened_at, SOURCE, None, hashes)
    return Rows(listens=table, quarantine=QUARANTINE_SCHEMA.empty_table())


def _taste(count: int, user: int, catalogue: Catalogue, random: np.random.Generator) -> np.ndarray:
    """Return track numbers: Zipf artists, each user's favourites elsewhere in the catalogue, Zipf tracks within."""
    artists = len(catalogue.artist_names)
    per_artist = len(catalogue.track_names) // artists
    artist_ranks = np.minimum(random.zipf(1.25, count) - 1, artists * 50) % artists
    track_ranks = (random.zipf(1.4, count) - 1) % per_artist
    return (artist_ranks + user * 97) % artists * per_artist + track_ranks


def _plant_duplicates(seconds: np.ndarray, tracks: np.ndarray, random: np.random.Generator) -> None:
    """Make some rows the listen before them, as a client does that sends twice."""
    doubled = np.flatnonzero(random.random(len(seconds)) < DUPLICATE_SHARE)
    doubled = doubled[doubled > 0]
    seconds[doubled] = seconds[doubled - 1]
    tracks[doubled] = tracks[doubled - 1]
