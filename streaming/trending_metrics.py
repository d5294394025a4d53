"""What the trending job tells Prometheus, batch by batch."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

if TYPE_CHECKING:
    from streaming.trending_job import BatchProgress

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class TrendingMetrics:
    """The counters and gauges of the job, in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._events = Counter("pulse_trending_events", "Events read.", registry=registry)
        self._late = Counter(
            "pulse_trending_late_groups",
            "Rows of state dropped since the watermark had passed them.",
            registry=registry,
        )
        self._batch = Gauge("pulse_trending_batch", "Id of the last batch.", registry=registry)
        self._rate = Gauge("pulse_trending_events_per_second", "Events a second in the last batch.", registry=registry)
        self._seconds = Histogram(
            "pulse_trending_batch_seconds", "What a batch took.", registry=registry, buckets=_SECONDS
        )
        self._state = Gauge("pulse_trending_state_rows", "Rows of state.", registry=registry)
        self._lag = Gauge("pulse_trending_lag", "Events yet to be processed.", ["partition"], registry=registry)
        self._latency = Histogram(
            "pulse_trending_latency_seconds",
            "From the broker until a batch was done, of its oldest event.",
            registry=registry,
            buckets=_SECONDS,
        )
        self._watermark = Gauge(
            "pulse_trending_watermark_seconds", "Spark's watermark, in seconds since 1970.", registry=registry
        )

    def record(self, done: BatchProgress) -> None:
        """Take one batch."""
        self._events.inc(done.events)
        self._late.inc(done.late_groups)
        self._batch.set(done.batch_id)
        self._rate.set(done.events_per_second)
        self._seconds.observe(done.seconds)
        self._state.set(done.state_rows)
        for partition, events in done.lag.items():
            self._lag.labels(str(partition)).set(events)
        if done.latency is not None:
            self._latency.observe(done.latency)
        if done.watermark:
            self._watermark.set(datetime.fromisoformat(done.watermark).timestamp())
