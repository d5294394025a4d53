"""What the live table shows of any names, on any terminal."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from music_pulse.live import Rates, View

LONG = "A name that goes on and on and on and on and on"


def view(name: str, artist: str = "Can", rows: int = 10) -> View:
    kinds = [(kind, rank) for kind in ("track", "artist") for rank in range(1, rows + 1)]
    return View(
        window_end=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        trending=[(kind, rank, None, name, artist, 12_345, 678, 9.5) for kind, rank in kinds],
        per_second_in=1_234.5,
        per_second_out=1_200.0,
        lag=34,
        latency=1.25,
        landed=5_678_901,
    )


def shown(view: View, width: int = 80, height: int = 24) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height)
    with console.capture() as capture:
        console.print(view.render(height))
    return capture.get().splitlines()


@pytest.mark.parametrize("name", ["[/red] Song", "[bold]Song", "[link=x]Song[/]", "Song\x1b[2J"])
def test_names_are_no_markup_and_garble_nothing(name: str) -> None:
    text = "\n".join(shown(view(name)))
    assert name.replace("\x1b", "·") in text
    assert "\x1b" not in view(name).line


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 30), (200, 50)])
def test_the_figures_are_seen_on_any_terminal(width: int, height: int) -> None:
    lines = shown(view(LONG, LONG), width, height)
    assert len(lines) <= height
    text = " ".join(" ".join(lines).split())
    assert "in 1,234.5/s, landed 1,200.0/s (5,678,901 in all), lag 34, latency 1.2 s" in text
    assert {"12,345", "678", "9.50", "new"} <= set(text.split())


def test_the_more_room_the_more_rows() -> None:
    assert sum("12,345" in line for line in shown(view("Song"), height=24)) == 16
    assert sum("12,345" in line for line in shown(view("Song"), height=50)) == 20


def test_before_the_first_window_it_says_when_to_expect_one() -> None:
    assert "no window has ended yet" in " ".join(shown(view("Song", rows=0)))


def test_rates_are_those_of_the_last_ten_seconds() -> None:
    rates = Rates()
    assert rates.add(100, 0.0) == 0.0
    assert rates.add(150, 5.0) == 10.0
    assert rates.add(250, 10.0) == 15.0
    assert rates.add(450, 20.0) == 20.0
    assert rates.add(450, 60.0) == 0.0
