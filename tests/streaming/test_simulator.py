"""The simulated stream tells its story, the same for a seed; a replay keeps the order and the pace of the times."""

from __future__ import annotations

import gzip
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import listen
from stream_reference import read_topic
from streams import unique

from music_pulse.embedded.broker import Endpoint
from music_pulse.errors import InputError
from streaming.client import JsonSerializer, KafkaConfig, ensure_topics, listen_topics
from streaming.events import ListenEvent
from streaming.simulator import FLOODER, HIT, WRONG_CLOCK, Play, Simulator, Story, replay

START = 1_700_000_000.0
PLAYS = [Play(f"Artist {number}", f"Track {number}", None, 180_000) for number in range(50)]
STORY = Story(rate=50, burst_every=0)


def told(story: Story, seconds: int) -> list[tuple[int, ListenEvent]]:
    """What a story sends, with the second in which it does, half a second at a time."""
    simulator = Simulator(story, itertools.cycle(PLAYS), START)
    return [(tick // 2, event) for tick in range(1, 2 * seconds + 1) for event in simulator.due(START + tick / 2, 0.5)]


def test_the_same_seed_tells_the_same_story_and_another_another() -> None:
    assert told(STORY, 20) == told(STORY, 20)
    assert told(STORY, 20) != told(replace(STORY, seed=2), 20)


def test_the_rate_holds_and_bursts_are_as_large_as_they_should_be() -> None:
    assert len(told(STORY, 60)) == 3_000
    by_second = Counter(second for second, _ in told(replace(STORY, burst_every=60, burst_seconds=5), 59))
    assert [by_second[second] for second in (10, 54, 56, 58)] == [50, 50, 200, 200]
    assert len(told(replace(STORY, rate=0.3), 100)) == 30  # fractions of an event are owed, not lost


def test_shares_come_out_as_asked() -> None:
    story = replace(STORY, duplicate_share=0.1, late_share=0.2, flood_share=0.3, wrong_clock_share=0.1, hit_share=0)
    events = told(story, 200)
    assert len(events) == 10_000
    again = len(events) - len({event["listen_id"] for _, event in events})
    assert again > 800
    late = [second for second, event in events if START + second - event["listened_at"] >= story.late_seconds[0] - 1]
    assert 1_500 < len(late) < 2_500
    users = Counter(event["user_name"] for _, event in events)
    assert 2_500 < users[FLOODER] < 3_500
    clocks = [event["listened_at"] - START - second for second, event in events if event["user_name"] == WRONG_CLOCK]
    assert 400 < len(clocks) < 1_000
    assert max(clocks) >= story.clock_ahead_seconds - 1


def test_nothing_odd_happens_where_no_share_is_given() -> None:
    plain = replace(STORY, duplicate_share=0, late_share=0, flood_share=0, wrong_clock_share=0, hit_share=0)
    for second, event in told(plain, 20):
        assert event["user_name"] not in (FLOODER, WRONG_CLOCK)
        assert event["track_metadata"]["artist_name"] != HIT.artist_name
        assert START + second <= event["listened_at"] + 1 <= START + second + 2


def test_the_hit_rises() -> None:
    story = replace(STORY, hit_share=0.5, hit_seconds=100)
    hits = Counter(
        second // 50 for second, event in told(story, 150) if event["track_metadata"]["track_name"] == HIT[1]
    )
    assert hits[0] * 2 < hits[1] < hits[2]


@pytest.fixture
def topic() -> str:
    return unique("listens")


@pytest.fixture
def config(broker: Endpoint, topic: str) -> KafkaConfig:
    config = KafkaConfig(broker.bootstrap)
    ensure_topics(config, listen_topics(config, topic, 1))
    return config


Write = Callable[[list[Any]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write lines to a compressed file: text as it is, all else as JSON."""

    def write(lines: list[Any]) -> Path:
        path = tmp_path / "history.jsonl.gz"
        text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
        path.write_bytes(gzip.compress(text.encode()))
        return path

    return write


def test_a_replay_goes_by_the_times_and_counts_what_is_no_listen(config: KafkaConfig, topic: str, write: Write) -> None:
    begin = int(START)
    lines = [listen(begin + second, f"Track {second}") for second in (30, 0, 20, 10)]
    path = write([*lines, "{", "", {"listened_at": begin + 5}])
    assert replay(config, topic, JsonSerializer(), path, threading.Event(), speed=1e9) == (4, 2)
    sent = [json.loads(record.value or b"")["listened_at"] for record in read_topic(config, topic)]
    assert sent == [begin, begin + 10, begin + 20, begin + 30]


def test_a_replay_takes_as_long_as_its_speed_says(config: KafkaConfig, topic: str, write: Write) -> None:
    path = write([listen(int(START) + minutes * 60, f"Track {minutes}") for minutes in range(4)])
    began = time.monotonic()
    replay(config, topic, JsonSerializer(), path, threading.Event(), speed=600)
    assert time.monotonic() - began >= 180 / 600
    assert len(read_topic(config, topic)) == 4


def test_a_replay_that_is_stopped_tells_what_it_sent(config: KafkaConfig, topic: str, write: Write) -> None:
    path = write([listen(int(START)), listen(int(START) + 86_400)])
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    sent, bad = replay(config, topic, JsonSerializer(), path, stop, speed=1)
    assert (sent, bad) == (1, 0)
    assert len(read_topic(config, topic)) == 1


def test_a_file_of_something_else_is_told(config: KafkaConfig, topic: str, write: Write) -> None:
    path = write(["# Title", "{}", "[1]"])
    with pytest.raises(InputError, match="none of 3 lines is a listen"):
        replay(config, topic, JsonSerializer(), path, threading.Event(), speed=1e9)


def test_a_damaged_file_is_told_in_one_line(config: KafkaConfig, topic: str, write: Write) -> None:
    path = write([listen(int(START) + number) for number in range(1_000)])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged or incomplete"):
        replay(config, topic, JsonSerializer(), path, threading.Event(), speed=1e9)
