"""Events that can't be used, set aside in `<topic>.dead-letters` as they came, with the reason."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import NamedTuple, Self

from streaming.client.bulk_producer import BulkProducer
from streaming.client.config import KafkaConfig
from streaming.client.metrics import StreamMetrics
from streaming.client.records import Headers, Record
from streaming.client.serializers import BytesSerializer

SUFFIX = ".dead-letters"
PREFIX = "dead-letter-"
HEADROOM_BYTES = 65_536
"""By how much a dead letter may be longer than an event: our headers come on top of one that is as large as may be."""

_MAX_REASON = 1_000


def dead_letter_topic(topic: str) -> str:
    """Return the topic of the dead letters of `topic`."""
    return topic + SUFFIX


class Origin(NamedTuple):
    """Where a dead letter comes from and why it is one; times in milliseconds since 1970."""

    reason: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int

    def headers(self) -> list[tuple[str, bytes | None]]:
        """Return it as headers, all text."""
        return [(PREFIX + name, str(value).encode("utf-8", "replace")) for name, value in self._asdict().items()]

    @classmethod
    def of(cls, headers: Headers) -> Origin | None:
        """Read it from the headers of a dead letter (the last, if it died more than once); None if it isn't one."""
        ours = [(name.removeprefix(PREFIX), content) for name, content in headers if name.startswith(PREFIX)]
        found = {name: (content or b"").decode("utf-8", "replace") for name, content in ours}
        try:
            numbers = [int(found[name]) for name in ("partition", "offset", "timestamp_ms")]
            return cls(found["reason"], found["topic"], *numbers)
        except (KeyError, ValueError):
            return None


class DeadLetters:
    """Sends events to the dead-letter topic: key, value and headers untouched, ours appended as `dead-letter-*`.

    Flush before the offsets of the events are committed, else a crash between the two loses them.
    """

    def __init__(self, config: KafkaConfig, topic: str, *, metrics: StreamMetrics | None = None) -> None:
        self.topic = dead_letter_topic(topic)
        self._metrics = metrics
        roomy = replace(config, max_event_bytes=config.max_event_bytes + HEADROOM_BYTES)
        self._producer = BulkProducer(roomy, self.topic, BytesSerializer(), metrics=metrics)

    def send(self, record: Record, reason: str) -> None:
        """Set `record` aside for `reason`, a short stable phrase (it becomes a label of a metric)."""
        origin = Origin(reason[:_MAX_REASON], record.topic, record.partition, record.offset, record.timestamp_ms)
        self._producer.forward(record, [*record.headers, *origin.headers()])
        if self._metrics is not None:
            self._metrics.dead_letters.labels(self.topic, reason).inc()

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all are there; raises `DeliveryError` after `timeout` seconds (default: `delivery_timeout`)."""
        self._producer.flush(timeout)

    def close(self) -> None:
        """Flush and close; raises what `flush` raises."""
        self._producer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._producer.__exit__(kind, error, traceback)
