"""What Spark reports of a batch, as Prometheus gets it."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry

from streaming.trending_job import _batch_progress
from streaming.trending_metrics import TrendingMetrics


def report(**changes: Any) -> dict[str, Any]:
    """A report as Spark 4.1 writes it, of what we read."""
    return {
        "batchId": 7,
        "timestamp": "2026-01-02T03:04:05.500Z",
        "numInputRows": 300,
        "processedRowsPerSecond": 200.0,
        "durationMs": {"triggerExecution": 1_500},
        "eventTime": {"watermark": "2026-01-02T02:54:00.000Z"},
        "stateOperators": [{"numRowsTotal": 40, "numRowsDroppedByWatermark": 2}],
        "sources": [
            {"endOffset": {"listens": {"0": 100, "1": 200}}, "latestOffset": {"listens": {"0": 110, "1": 200, "2": 5}}}
        ],
        # 1.25 s before the batch began.
        "observedMetrics": {"left_out": {"malformed": 1, "clock ahead": 0, "oldest": 1_767_323_044_250}},
        **changes,
    }


def test_a_batch_is_told_by_its_numbers() -> None:
    registry = CollectorRegistry()
    TrendingMetrics(registry).record(_batch_progress(report()))
    value = registry.get_sample_value
    assert value("pulse_trending_events_total") == 300
    assert value("pulse_trending_late_groups_total") == 2
    assert value("pulse_trending_batch") == 7
    assert value("pulse_trending_events_per_second") == 200
    assert value("pulse_trending_batch_seconds_sum") == 1.5
    assert value("pulse_trending_state_rows") == 40
    assert value("pulse_trending_watermark_seconds") == 1_767_322_440
    assert value("pulse_trending_latency_seconds_sum") == 2.75
    assert value("pulse_trending_lag", {"partition": "0"}) == 10
    assert value("pulse_trending_lag", {"partition": "1"}) == 0


def test_a_batch_of_nothing_has_no_latency_and_keeps_the_watermark() -> None:
    registry = CollectorRegistry()
    metrics = TrendingMetrics(registry)
    metrics.record(_batch_progress(report()))
    empty = report(
        batchId=8,
        numInputRows=0,
        processedRowsPerSecond=0.0,
        eventTime={},
        observedMetrics={"left_out": {"malformed": 0, "clock ahead": 0, "oldest": None}},
    )
    metrics.record(_batch_progress(empty))
    value = registry.get_sample_value
    assert value("pulse_trending_latency_seconds_count") == 1
    assert value("pulse_trending_watermark_seconds") == 1_767_322_440
    assert value("pulse_trending_batch") == 8
