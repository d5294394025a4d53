"""`pulse serve` and `pulse token`, wired: the server gets its database, its broker if there is one, and its store."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from music_pulse import streams, transform
from music_pulse.blocklist import read_blocklist
from music_pulse.database import connect
from music_pulse.display import console
from music_pulse.errors import ConfigurationError, InputError
from music_pulse.settings import Settings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from serving.app import Ingest
    from streaming.client import KafkaConfig

logger = logging.getLogger(__name__)


def run_server(settings: Settings) -> None:
    """Serve on `settings.serve_host` until SIGTERM or Ctrl-C. Raises `ConfigurationError` for a bind that is unsafe."""
    from prometheus_client import CollectorRegistry

    from serving.app import create_app
    from serving.door import is_loopback
    from serving.server import address_of, bound_socket, serve
    from serving.tokens import list_tokens

    if not is_loopback(settings.serve_host) and not list_tokens(settings):
        raise ConfigurationError(
            f"others could reach {settings.serve_host}, and there is no token yet: make one with "
            "pulse token create NAME, or serve on 127.0.0.1"
        )
    registry = CollectorRegistry()
    with closing(bound_socket(settings.serve_host, settings.serve_port)) as bound:
        address = address_of(bound)
        with ingest(settings, name=f"{socket.gethostname()}.{bound.getsockname()[1]}", registry=registry) as into:
            app = create_app(settings, into, transform.target_path(settings), registry)

            def tell() -> None:
                console().print(f"Music Pulse is on {address}, its API described on {address}/docs (Ctrl-C stops)")

            serve(app, bound, tell)
    logger.info("stopped")


@contextmanager
def ingest(settings: Settings, *, name: str, registry: CollectorRegistry | None = None) -> Iterator[Ingest]:
    """Yield where listens go: the broker that is named or that runs here, else the database.

    `name` tells this server from others that send to the same topic.
    """
    from serving.app import Ingest
    from streaming.client import StreamMetrics
    from streaming.submissions import SubmissionStore, Submitted

    with ExitStack() as stack:
        find = _find_broker(settings, stack)
        store = SubmissionStore(
            settings,
            find,
            transactional_id=f"{settings.kafka_group}.{settings.kafka_topic}.serve.{name}",
            metrics=None if registry is None else StreamMetrics(registry),
        )
        stack.callback(store.close)
        yield Ingest(lambda each: store.store([Submitted(*one) for one in each]), store.check)


def _find_broker(settings: Settings, stack: ExitStack) -> Callable[[], KafkaConfig | None]:
    """Return what looks for a broker. An embedded one is taken when it runs, not started; `stack` holds it up."""
    if settings.kafka_bootstrap:
        named = stack.enter_context(streams.broker(settings))
        return lambda: named

    def find() -> KafkaConfig | None:
        from music_pulse.embedded.broker import EmbeddedBroker

        if not EmbeddedBroker(settings.home, streams.jar_cache(settings)).is_running():
            return None
        return stack.enter_context(streams.broker(settings))

    return find


def create_token(settings: Settings, user_name: str) -> str:
    """Make a token. Raises `InputError` for a person who was forgotten, and stays out."""
    from serving.tokens import create_token as create

    with connect(settings.credentials("loader"), autocommit=True) as connection:
        if user_name in read_blocklist(connection, settings):
            raise InputError(
                "this person was forgotten here and gets no token; if they want to come back, "
                "pulse run and pulse import take them in with --user NAME --allow"
            )
    return create(settings, user_name)
