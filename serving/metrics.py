"""What the server tells Prometheus at /metrics; no label names a person."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import Scope

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LISTENS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000)


class ServerMetrics:
    """The counters and histograms of the server in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "pulse_http_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "pulse_http_request_seconds", "What an answer took.", ["route"], registry=registry, buckets=_SECONDS
        )
        self.listens = Counter("pulse_ingest_listens", "Listens acknowledged.", ["listen_type"], registry=registry)
        self.refused = Counter("pulse_ingest_refused", "Submissions refused.", ["status"], registry=registry)
        self.limited = Counter("pulse_http_rate_limited", "Requests over the rate limit.", registry=registry)
        self.batch_listens = Histogram(
            "pulse_ingest_batch_listens", "Listens stored at once.", registry=registry, buckets=_LISTENS
        )
        self.store_seconds = Histogram(
            "pulse_ingest_store_seconds",
            "From a batch to its acknowledgement by the broker or the database.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.waiting = Gauge("pulse_ingest_waiting", "Listens that wait to be stored.", registry=registry)

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request under its route's pattern: paths hold names."""
        route = getattr(scope.get("route"), "path", None) or "static"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.requests.labels(method, route, str(status or "cut")).inc()
        if route != "static":
            self.seconds.labels(route).observe(seconds)


_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH"})
