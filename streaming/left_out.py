"""What the trending job leaves out: counted in raw.trending_left_out, and malformed events made dead letters.

Spark tells what a batch has left out only after it has committed the batch, so a job that is killed in between would
never tell. `left_out.json` in the checkpoint holds the last batch that was told; those after it are read again at the
next start. Counts stand once, whatever happens; a dead letter that a killed job was about to note is there twice.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from music_pulse.database import connect, one_line
from music_pulse.errors import DatabaseError
from music_pulse.settings import Settings
from streaming.avro_source import with_json_values
from streaming.client.config import KafkaConfig
from streaming.client.dead_letters import DeadLetters
from streaming.client.records import Record
from streaming.transforms import CLOCK_AHEAD, MALFORMED, parsed
from streaming.trending_rules import TrendingRules
from streaming.trending_sink import COUNT_LEFT_OUT

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

logger = logging.getLogger(__name__)

_EARLIEST = -2  # in Spark's JSON

VERY_LATE = "very late"
"""Later than the state lasts: dropped by Spark before the sink could see it (what the sink sees is `late`)."""


class LeftOut:
    """Follows the job batch by batch, from the progress that Spark reports after each and from its checkpoint."""

    def __init__(
        self, settings: Settings, config: KafkaConfig, session: SparkSession, checkpoint: Path, *, dead_letters: bool
    ) -> None:
        self._settings = settings
        self._rules = TrendingRules.from_settings(settings)
        self._config = config
        self._session = session
        self._checkpoint = checkpoint
        self._query_id = json.loads((checkpoint / "metadata").read_text(encoding="utf-8"))["id"]
        self._dead_letters = DeadLetters(config, settings.kafka_topic) if dead_letters else None
        self._waiting: deque[tuple[int, Any]] = deque()
        self._next = self._first_untold()

    def catch_up(self) -> None:
        """Tell of the batches of an earlier run that nobody has told of."""
        self._read_again_up_to(max(self._committed(), default=-1) + 1)
        self._tell_all()

    def record(self, report: Any) -> None:
        """Take one report, decoded; a batch reported again is passed over, one that went unreported is read again."""
        batch_id = report["batchId"]
        if batch_id >= self._next:
            self._read_again_up_to(batch_id)
            self._waiting.append((batch_id, report))
            self._next = batch_id + 1
        self._tell_all()

    def close(self) -> None:
        """Flush and close."""
        if self._dead_letters is not None:
            self._dead_letters.close()

    def _committed(self) -> list[int]:
        return [int(path.name) for path in (self._checkpoint / "commits").glob("[0-9]*")]

    def _first_untold(self) -> int:
        path = self._checkpoint / "left_out.json"
        if path.exists():
            return int(json.loads(path.read_text(encoding="utf-8"))) + 1
        # Where the oldest batch that an older checkpoint knows began, Spark has forgotten.
        oldest = min(self._committed(), default=0)
        return oldest + 1 if oldest else 0

    def _read_again_up_to(self, batch_id: int) -> None:
        self._waiting.extend((untold, None) for untold in range(self._next, batch_id))
        self._next = max(self._next, batch_id)

    def _tell_all(self) -> None:
        try:
            while self._waiting:
                batch_id, report = self._waiting[0]
                self._tell(batch_id, self._counts(batch_id, report))
                self._waiting.popleft()
        except (DatabaseError, psycopg.OperationalError) as error:
            logger.warning("batch %d: what was left out is counted later: %s", batch_id, one_line(error))

    def _tell(self, batch_id: int, counts: dict[str, int]) -> None:
        rows = [(self._query_id, batch_id, reason, events) for reason, events in counts.items() if events]
        if rows:
            with connect(self._settings.credentials("loader"), autocommit=True) as connection:
                for row in rows:
                    connection.execute(COUNT_LEFT_OUT, row)
        if counts.get(MALFORMED) and self._dead_letters is not None:
            self._set_aside(self._dead_letters, batch_id)
        new = self._checkpoint / "left_out.json.new"
        new.write_text(json.dumps(batch_id), encoding="utf-8")
        new.replace(self._checkpoint / "left_out.json")

    def _counts(self, batch_id: int, report: Any) -> dict[str, int]:
        """Count by what Spark observed, where it has told; what it dropped it didn't observe: that is read again."""
        if report is None:
            events = self._events_of(batch_id)
            found = Counter({row["left_out"]: row["count"] for row in events.groupBy("left_out").count().collect()})
            counts = {reason: found[reason] for reason in (MALFORMED, CLOCK_AHEAD)}
        else:
            told = report.get("observedMetrics", {}).get("left_out", {})
            counts = {reason: told.get(reason, 0) for reason in (MALFORMED, CLOCK_AHEAD)}
            if not any(state["numRowsDroppedByWatermark"] for state in report["stateOperators"]):
                return counts
            events = self._events_of(batch_id)
        return {**counts, VERY_LATE: self._very_late(events, batch_id)}

    def _very_late(self, events: DataFrame, batch_id: int) -> int:
        """Count listens, each once, whose row of state was gone: Spark goes by the watermark of the batch before."""
        if batch_id == 0:
            return 0
        watermark = self._offsets(batch_id - 1)[0]["batchWatermarkMs"] // 1000
        rules = self._rules
        slide = rules.slide_minutes * 60
        step = rules.block_slides * slide
        length = step - slide + rules.window_minutes * 60
        gone = events.where(f"left_out is null and listened_at - pmod(listened_at, {step}) + {length} <= {watermark}")
        return gone.select("user_key", "track_id", "listened_at").distinct().count()

    def _set_aside(self, dead_letters: DeadLetters, batch_id: int) -> None:
        """Read the batch's events once more, for those that were malformed: there are few, or none."""
        malformed = self._events_of(batch_id).where(f"left_out = '{MALFORMED}'")
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
            dead_letters.send(record, MALFORMED)
        dead_letters.flush()

    def _events_of(self, batch_id: int) -> DataFrame:
        """Read a batch again, and nothing but it."""
        topic = self._settings.kafka_topic
        end = self._offsets(batch_id)[1][topic]
        begin = (self._offsets(batch_id - 1)[1] if batch_id else self._first_offsets())[topic]
        begin = {partition: begin.get(partition, _EARLIEST) for partition in end}  # partitions may have been added
        assigned = json.dumps({topic: [int(partition) for partition in end]})
        reader = self._session.read.format("kafka").option("assign", assigned)
        for name, value in self._config.java().items():
            reader = reader.option(f"kafka.{name}", value)
        records = (
            reader.option("startingOffsets", json.dumps({topic: begin}))
            .option("endingOffsets", json.dumps({topic: end}))
            .option("kafka.isolation.level", "read_committed")
            .option("includeHeaders", "true")
            .option("failOnDataLoss", "false")  # the job has counted them, even if retention took them since
            .load()
        )
        return parsed(with_json_values(records.withColumn("payload", records["value"]), self._settings), self._rules)

    def _offsets(self, batch_id: int) -> tuple[Any, Any]:
        """Return what Spark noted before it began a batch: its own account, and where the batch ends."""
        lines = (self._checkpoint / "offsets" / str(batch_id)).read_text(encoding="utf-8").splitlines()
        return json.loads(lines[1]), json.loads(lines[2])

    def _first_offsets(self) -> Any:
        text = (self._checkpoint / "sources" / "0" / "0").read_text(encoding="utf-8")
        return json.loads(text.splitlines()[1])


def _bytes(value: bytearray | None) -> bytes | None:
    return None if value is None else bytes(value)
