"""What the clients tell Prometheus, in a registry that the caller gives."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_EVENTS = (1, 10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)


class StreamMetrics:
    """The counters, gauges and histograms of producers, consumers and dead letters in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.sent = Counter("pulse_kafka_sent", "Events handed to the producer.", ["topic"], registry=registry)
        self.delivered = Counter("pulse_kafka_delivered", "Events the broker has.", ["topic"], registry=registry)
        self.failed = Counter("pulse_kafka_failed", "Events given up.", ["topic"], registry=registry)
        self.queued = Gauge("pulse_kafka_queued", "Events that wait to be delivered.", ["topic"], registry=registry)
        self.delivery_seconds = Histogram(
            "pulse_kafka_delivery_seconds",
            "From send to acknowledgement.",
            ["topic"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.consumed = Counter("pulse_kafka_consumed", "Events read.", ["group"], registry=registry)
        self.batch_events = Histogram(
            "pulse_kafka_batch_events", "Events of one batch.", ["group"], registry=registry, buckets=_EVENTS
        )
        self.batch_seconds = Histogram(
            "pulse_kafka_batch_seconds",
            "What a batch took to be processed.",
            ["group"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.latency_seconds = Histogram(
            "pulse_kafka_latency_seconds",
            "From the broker to where the events go, of the oldest of each batch; the sink tells it.",
            ["group"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.commit_failures = Counter(
            "pulse_kafka_commit_failures", "Commits that the group refused.", ["group"], registry=registry
        )
        self.partitions = Gauge("pulse_kafka_partitions", "Partitions held now.", ["group"], registry=registry)
        self.rebalances = Counter(
            "pulse_kafka_rebalances", "Partitions that came, went or were lost.", ["group", "kind"], registry=registry
        )
        self.dead_letters = Counter(
            "pulse_kafka_dead_letters", "Events set aside, by reason.", ["topic", "reason"], registry=registry
        )
