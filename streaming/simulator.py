"""Invented listens as a paced source, and the replay of real ones; both send events as the ingest endpoint would.

The simulator tells a story, so that there is something to see: a hit that rises, a user who floods, a clock that is
wrong, events that come twice and events that come late. Who listens to what comes from the caller (the synthetic
generator), the times are now.
"""

from __future__ import annotations

import gzip
import random
import shutil
import tempfile
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from music_pulse.errors import InputError
from music_pulse.listens import from_json
from streaming.client import BulkProducer, BytesSerializer, KafkaConfig, StreamMetrics
from streaming.client.serializers import Serializer
from streaming.events import EventBuilder, ListenEvent

TICK_SECONDS = 0.05
_REMEMBERED = 10_000
_REPLAY_BATCH = 1_000


class Play(NamedTuple):
    """What somebody hears; the length in milliseconds."""

    artist_name: str
    track_name: str
    album: str | None
    duration_ms: int | None


HIT = Play("The Risers", "Out of Nowhere", "First Light", 201_000)
FLOODER = "synthetic_flooder"
WRONG_CLOCK = "synthetic_clock"


@dataclass(frozen=True)
class Story:
    """What a simulation is like; shares are of all events, times in seconds."""

    rate: float
    """Events a second."""
    users: int = 200
    late_share: float = 0.01
    late_seconds: tuple[int, int] = (900, 3_600)
    duplicate_share: float = 0.01
    flood_share: float = 0.02
    wrong_clock_share: float = 0.005
    clock_ahead_seconds: int = 1_800
    hit_seconds: float = 600.0
    """From its first listen to its peak."""
    hit_share: float = 0.15
    """At its peak."""
    burst_every: float = 60.0
    burst_seconds: float = 5.0
    burst_factor: float = 4.0
    seed: int = 1

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise InputError("--simulate: the rate must be above 0 events a second")


class Simulator:
    """Makes the events of a story, as many as are due; deterministic by seed and clock. `plays` never ends."""

    def __init__(self, story: Story, plays: Iterator[Play], started: float) -> None:
        self._story = story
        self._plays = plays
        self._started = started
        self._random = random.Random(story.seed)
        self._builder = EventBuilder()
        self._sent: deque[ListenEvent] = deque(maxlen=_REMEMBERED)
        self._owed = 0.0

    def due(self, now: float, seconds: float) -> list[ListenEvent]:
        """Return the events of the last `seconds` before `now` (seconds since 1970)."""
        story = self._story
        since = now - self._started
        in_burst = story.burst_every > 0 and since % story.burst_every >= story.burst_every - story.burst_seconds
        self._owed += story.rate * seconds * (story.burst_factor if in_burst else 1.0)
        count, self._owed = int(self._owed), self._owed % 1
        listens, again = [], []
        for _ in range(count):
            if self._sent and self._random.random() < story.duplicate_share:
                again.append(self._random.choice(self._sent))
            else:
                listens.append(self._listen(now, since))
        events, refused = self._builder.build(listens, now=now)
        if refused:
            raise AssertionError(f"the simulator made a listen that is none: {refused[0].reason}")
        self._sent.extend(events)
        return events + again

    def _listen(self, now: float, since: float) -> dict[str, Any]:
        story, chance = self._story, self._random.random
        listened_at = int(now)
        user = f"synthetic_{self._random.randrange(story.users) + 1}"
        play = next(self._plays)
        if chance() < story.hit_share * min(1.0, since / story.hit_seconds):
            play = HIT
        elif chance() < story.flood_share:
            user = FLOODER
            play = Play("The Flood", "Again and Again", None, None)
        elif chance() < story.wrong_clock_share:
            user, listened_at = WRONG_CLOCK, listened_at + story.clock_ahead_seconds
        if chance() < story.late_share:
            listened_at -= self._random.randint(*story.late_seconds)
        metadata: dict[str, Any] = {"artist_name": play.artist_name, "track_name": play.track_name}
        info: dict[str, Any] = {"submission_client": "music-pulse simulator"}
        if play.duration_ms is not None:
            info["duration_ms"] = play.duration_ms
        if play.album is not None:
            metadata["release_name"] = play.album
        return {"user_name": user, "listened_at": listened_at, "track_metadata": {**metadata, "additional_info": info}}


def simulate(
    config: KafkaConfig,
    topic: str,
    serializer: Serializer[ListenEvent],
    story: Story,
    plays: Iterator[Play],
    stop: threading.Event,
    *,
    metrics: StreamMetrics | None = None,
    progress: Callable[[int], None] = lambda _: None,
    until: float | None = None,
) -> int:
    """Send events at the story's rate until `stop` (or for `until` seconds); return how many. Raises `StreamError`."""
    started = last = time.time()
    simulator = Simulator(story, plays, started)
    sent = 0
    with BulkProducer(config, topic, BytesSerializer(), metrics=metrics) as producer:
        while not stop.wait(TICK_SECONDS):
            now = time.time()
            events = simulator.due(now, now - last)
            last = now
            _send(producer, serializer, events)
            sent += len(events)
            progress(sent)
            if until is not None and now - started >= until:
                break
    return sent


def replay(
    config: KafkaConfig,
    topic: str,
    serializer: Serializer[ListenEvent],
    path: Path,
    stop: threading.Event,
    *,
    speed: float,
    user_name: str | None = None,
    metrics: StreamMetrics | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[int, int]:
    """Send a file of listens (JSON lines, plain or gzip) in the order of their times, `speed` times as fast.

    Times stay as they are, so each listen keeps its id: one that is landed already doubles nothing. Returns how many
    were sent and how many are no listens. Raises `InputError` (also if none is a listen), `StreamError`.
    """
    if speed <= 0:
        raise InputError("--speed must be above 0")
    builder = EventBuilder()
    sent = bad = 0
    with _plain(path) as file, BulkProducer(config, topic, BytesSerializer(), metrics=metrics) as producer:
        seconds, places, unread = _order(file)
        bad += unread
        began = time.monotonic()
        batch: list[Any] = []
        for index, place in enumerate(places):
            due = began + (seconds[index] - seconds[0]) / speed - time.monotonic()
            if batch and (due > 0 or len(batch) >= _REPLAY_BATCH):
                events, refused = builder.build(batch, now=time.time(), user_name=user_name)
                _send(producer, serializer, events)
                sent, bad, batch = sent + len(events), bad + len(refused), []
                progress(sent)
            if stop.wait(max(0.0, due)) if due > 0 else stop.is_set():
                break
            file.seek(place)
            batch.append(from_json(file.readline()))
        events, refused = builder.build(batch, now=time.time(), user_name=user_name)
        _send(producer, serializer, events)
        sent, bad = sent + len(events), bad + len(refused)
        progress(sent)
    if bad and not sent:
        raise InputError(f"{path}: none of {bad:,} lines is a listen: a replay takes JSON lines in ListenBrainz form")
    return sent, bad


def _send(producer: BulkProducer[bytes], serializer: Serializer[ListenEvent], events: list[ListenEvent]) -> None:
    producer.send_many(
        [event["user_name"].encode("utf-8", "replace") for event in events],
        [serializer.serialize(event) for event in events],
    )


@contextmanager
def _plain(path: Path) -> Iterator[IO[bytes]]:
    """Open for reading in any order; a compressed file is unpacked to a temporary one."""
    try:
        with path.open("rb") as file:
            if file.read(2) != b"\x1f\x8b":
                file.seek(0)
                yield file
                return
            file.seek(0)
            with tempfile.TemporaryFile() as unpacked:
                with gzip.GzipFile(fileobj=file) as packed:
                    shutil.copyfileobj(packed, unpacked)
                unpacked.seek(0)
                yield unpacked
    except (EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: damaged or incomplete ({error})") from error
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from error


def _order(file: IO[bytes]) -> tuple[array[int], array[int], int]:
    """Return times and places of the lines, ordered by time (16 bytes a line), and how many can't be read."""
    times, places, bad = array("q"), array("q"), 0
    place = 0
    for line in file:
        if line.strip():
            try:
                listened_at = from_json(line)["listened_at"]
                times.append(int(listened_at))
                places.append(place)
            except (ValueError, TypeError, KeyError, OverflowError):
                bad += 1
        place += len(line)
    order = sorted(range(len(times)), key=times.__getitem__)
    return array("q", (times[i] for i in order)), array("q", (places[i] for i in order)), bad
