"""What the trending job leaves out: counted in raw.trending_left_out, and malformed events made dead letters."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg

from music_pulse.database import connect, one_line
from music_pulse.errors import DatabaseError
from music_pulse.settings import Settings
from streaming.avro_source import with_json_values
from streaming.client.config import KafkaConfig
from streaming.client.dead_letters import DeadLetters
from streaming.client.records import Record
from streaming.transforms import MALFORMED, parsed
from streaming.trending_rules import TrendingRules
from streaming.trending_sink import COUNT_LEFT_OUT

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

logger = logging.getLogger(__name__)


class LeftOut:
    """Follows the job batch by batch, from the progress that Spark reports after each."""

    def __init__(
        self, settings: Settings, config: KafkaConfig, session: SparkSession, query_id: UUID, *, dead_letters: bool
    ) -> None:
        self._settings = settings
        self._config = config
        self._session = session
        self._query_id = query_id
        self._dead_letters = DeadLetters(config, settings.kafka_topic) if dead_letters else None

    def record(self, report: Any) -> None:
        """Take one report, decoded; a batch reported again is counted once."""
        found = report.get("observedMetrics", {}).get("left_out", {})
        rows = [(self._query_id, report["batchId"], reason, count) for reason, count in found.items() if count]
        if not rows:
            return
        if found.get(MALFORMED) and self._dead_letters is not None:
            self._set_aside(report)
        try:
            with connect(self._settings.credentials("loader"), autocommit=True) as connection:
                for row in rows:
                    connection.execute(COUNT_LEFT_OUT, row)
        except (DatabaseError, psycopg.OperationalError) as error:
            logger.warning("batch %d: what was left out couldn't be counted: %s", report["batchId"], one_line(error))

    def close(self) -> None:
        """Flush and close."""
        if self._dead_letters is not None:
            self._dead_letters.close()

    def _set_aside(self, report: Any) -> None:
        """Read the batch's offsets once more, for the events that were malformed: there are few, or none."""
        assert self._dead_letters is not None
        [source] = report["sources"]
        reader = self._session.read.format("kafka").option("subscribe", self._settings.kafka_topic)
        for name, value in self._config.java().items():
            reader = reader.option(f"kafka.{name}", value)
        batch = (
            reader.option("startingOffsets", json.dumps(source["startOffset"]) if source["startOffset"] else "earliest")
            .option("endingOffsets", json.dumps(source["endOffset"]))
            .option("kafka.isolation.level", "read_committed")
            .option("includeHeaders", "true")
            .load()
        )
        kept = with_json_values(batch.withColumn("payload", batch["value"]), self._settings)
        malformed = parsed(kept, TrendingRules.from_settings(self._settings)).where(f"left_out = '{MALFORMED}'")
        for row in malformed.select("topic", "partition", "offset", "timestamp", "key", "payload", "headers").collect():
            headers = [(header["key"], _bytes(header["value"])) for header in row["headers"] or []]
            record = Record(
                row["topic"],
                row["partition"],
                row["offset"],
                int(row["timestamp"].timestamp() * 1000),
                _bytes(row["key"]),
                _bytes(row["payload"]),
                headers,
            )
            self._dead_letters.send(record, MALFORMED)
        self._dead_letters.flush()


def _bytes(value: bytearray | None) -> bytes | None:
    return None if value is None else bytes(value)
