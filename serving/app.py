"""The server as an ASGI app: the page, its API, ListenBrainz' API, the docs, health and metrics.

One process, one event loop: routes are coroutines and read through pools of async connections (`serving.database`);
listens are stored by one thread, many requests at once (`serving.intake`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.staticfiles import StaticFiles

from music_pulse import __version__
from music_pulse.settings import Settings
from serving import api, health
from serving.app_tables import create_app_tables
from serving.database import Databases
from serving.documentation import add_documentation
from serving.door import Door
from serving.errors import add_handlers
from serving.events import Events
from serving.intake import Intake, Store
from serving.listenbrainz import ingest, reads, stats
from serving.listenbrainz.askers import Askers
from serving.metrics import ServerMetrics

WEB = Path(__file__).with_name("web")
"""The page's files."""


@dataclass(frozen=True)
class Ingest:
    """Where listens go, handed over by the command: `store` is called in one thread, `check` in any.

    `check` says in a line where they go, and raises `PulseError` if they can't just now.
    """

    store: Store
    check: Callable[[], str]


def create_app(settings: Settings, into: Ingest, dbt_docs: Path, registry: CollectorRegistry | None = None) -> FastAPI:
    """Make the app; nothing is opened before it starts. `dbt_docs` is the folder that dbt writes."""
    metrics = ServerMetrics(registry or CollectorRegistry())
    databases = Databases(settings)
    intake = Intake(into.store, metrics)
    events = Events(databases)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        create_app_tables(settings)
        intake.start()
        async with databases.opened():
            try:
                yield
            finally:
                intake.close()
                await events.ended()

    app = FastAPI(
        title="Music Pulse",
        version=__version__,
        description="What was heard, and what is trending; /1/ speaks ListenBrainz.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.databases = databases
    app.state.metrics = metrics
    app.state.intake = intake
    app.state.check_ingest = into.check
    app.state.events = events
    app.state.askers = Askers(settings.serve_rate_limit)
    add_handlers(app)
    for router in (health.router, api.router, ingest.router, stats.router, reads.router):
        app.include_router(router)
    add_documentation(app, dbt_docs)
    app.mount("/", StaticFiles(directory=WEB, html=True), name="web")
    app.add_middleware(Door, host=settings.serve_host, metrics=metrics)
    return app
