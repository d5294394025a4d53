"""One warehouse and one server for all tests of what speaks ListenBrainz."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from helpers import MakeWarehouse, build, listen, load, sample_lines
from web_server import Serve, Site, running

from music_pulse.serve import create_token, ingest
from serving.app import Ingest

TIED = 1_500_000_000
"""2017-07-14T02:40:00Z: a second with many listens."""

HISTORY = [
    *[listen(TIED, f"Tie {number}", user="Tied", album="Knots", ms=1000) for number in range(7)],
    *[listen(TIED + hours * 3600, f"Track {hours % 4}", user="Tied", ms=1000) for hours in range(1, 30)],
    listen(TIED + 30 * 86_400, "A month later", "Someone", user="Tied"),
    listen(TIED - 400 * 86_400, "Long before", user="Tied"),
    listen(TIED + 5, "Slash", user="a/b c"),
]


@pytest.fixture(scope="session")
def site(make_warehouse: MakeWarehouse, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server on the marts of the real sample, of a second with many listens, and of an odd name."""
    settings = make_warehouse(serve_rate_limit=1_000_000)
    load(settings, tmp_path_factory.mktemp("loads"), [*sample_lines(), *HISTORY])
    build(settings)
    with ingest(settings, name="test") as into, running(settings, into) as address:
        yield Site(address, settings, create_token(settings, "ann"))


@pytest.fixture
def serve(site: Site) -> Serve:
    """Serve the same warehouse with other settings, or another place where listens go."""

    @contextmanager
    def serve(into: Ingest | None = None, **changes: object) -> Iterator[Site]:
        settings = site.settings.model_copy(update=changes)
        nowhere = Ingest(lambda submissions: [None] * len(submissions), lambda: "nowhere")
        with running(settings, into or nowhere) as address:
            yield Site(address, settings, site.token)

    return serve
