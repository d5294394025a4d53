"""One warehouse with the real sample, one server and one Chromium for all tests of the page."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pytest
from helpers import MakeWarehouse, build, listen, load, sample_lines
from playwright.sync_api import Browser, Page, sync_playwright
from web_server import running

from music_pulse.database import connect
from music_pulse.serve import ingest
from music_pulse.settings import Settings
from streaming.trending_changes import Changes
from streaming.trending_rules import TrendingRules
from streaming.trending_sink import TrendingSink

HOSTILE_USER = "<b>mallory</b>"
HOSTILE_ARTIST = "<img src=x onerror=document.title='broken'>"
HOSTILE_TRACK = "evil\u202egnp.exe \u0001\u001b[31m"
HOSTILE_ALBUM = "</td><script>document.title='broken'</script>"
ARABIC = "أغنية (live)"
SPRING = 1_650_000_000
"""2022-04-15T05:20:00Z."""

HOSTILE = [
    listen(SPRING, HOSTILE_TRACK, HOSTILE_ARTIST, user=HOSTILE_USER, album=HOSTILE_ALBUM, ms=200_000),
    listen(SPRING + 600, ARABIC, "فيروز", user=HOSTILE_USER, album="ألبوم", ms=200_000),
    listen(SPRING + 4000, "x" * 3000, "y" * 500, user=HOSTILE_USER, ms=200_000),
]

Entry = tuple[str, str, int]
"""Track, artist, listeners."""


@dataclass
class Site:
    """The running server, and its warehouse."""

    address: str
    settings: Settings
    checkpoint: Path
    batches: int = 0

    def window(self, *entries: Entry) -> None:
        """Write a trending window that has just ended, by the sink's own transaction."""
        start = int(time.time()) // 60 * 60 - 300
        rows = [
            (start, kind, uuid4().bytes, listeners + 1, listeners, artist, track if kind == "track" else None)
            for track, artist, listeners in entries
            for kind in ("track", "artist")
        ]
        names = ("window_start", "kind", "id", "listens", "listeners", "artist_name", "track_name")
        types = (pa.int64(), pa.string(), pa.binary(), pa.int64(), pa.int64(), pa.string(), pa.string())
        columns = {
            name: pa.array(values, kind)
            for name, kind, values in zip(names, types, zip(*rows, strict=True), strict=True)
        }
        sink = TrendingSink(self.settings.credentials("loader"), TrendingRules(), self.checkpoint)
        with connect(self.settings.credentials("loader"), autocommit=True) as connection:
            assert sink.write(connection, Changes(pa.table(columns), {}, start + 300), self.batches)
        self.batches += 1

    def forget_windows(self) -> None:
        """Take out all trending windows."""
        with connect(self.settings.credentials("admin"), autocommit=True) as connection:
            connection.execute("truncate raw.trending_windows")

    def cut_off(self, is_cut: bool) -> None:
        """Let nobody into the database, and throw out who is in; or let them in again."""
        allow = "false" if is_cut else "true"
        name = self.settings.postgres_dbname
        admin = self.settings.credentials("admin")._replace(dbname="postgres")
        with connect(admin, autocommit=True) as connection:
            connection.execute(f"alter database {name} allow_connections {allow}".encode())
            if is_cut:
                connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])


@pytest.fixture(scope="session")
def site(make_warehouse: MakeWarehouse, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server on the marts of the sample and of somebody with hostile names."""
    settings = make_warehouse()
    load(settings, tmp_path_factory.mktemp("loads"), [*sample_lines(), *HOSTILE])
    build(settings)
    checkpoint = tmp_path_factory.mktemp("checkpoint")
    (checkpoint / "metadata").write_text(json.dumps({"id": str(uuid4())}), encoding="utf-8")
    with ingest(settings, name="page") as into, running(settings, into) as address:
        yield Site(address, settings, checkpoint)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium, as it is installed. Not for the session: Playwright occupies this thread's event loop."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert program, "the tests of the page need Chromium: make test installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


Open = Callable[..., Page]
"""Opens the page: an address after the host, options of the browser's context."""


@pytest.fixture
def open_page(site: Site, browser: Browser) -> Iterator[Open]:
    """Open pages that must show no error in the console and ask no other host."""
    complaints: list[str] = []
    contexts = []

    def opened(address: str = "/", *, expects_failures: bool = False, **options: object) -> Page:
        context = browser.new_context(**options)  # type: ignore[arg-type]
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(f"raised: {error}"))
        if not expects_failures:
            page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on(
            "request",
            lambda asked: None if asked.url.startswith(site.address + "/") else complaints.append(f"asked {asked.url}"),
        )
        page.goto(site.address + address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
