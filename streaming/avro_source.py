"""Records in Avro -> the same records with JSON values, which is what `transforms.parsed` reads.

Decoded in Python, by the deserializer that the sink uses: Spark's own `from_avro` knows one writer's schema, and the
records of a topic whose schema evolves have several.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING

import pyarrow as pa

from music_pulse.settings import Settings
from streaming.client.errors import SerializationError
from streaming.client.registry import Registry, RegistryConfig
from streaming.client.serializers import JsonSerializer
from streaming.events import AvroEventSerializer

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def with_json_values(records: DataFrame, settings: Settings) -> DataFrame:
    """Return `records` with their column `value` (binary) as JSON, if the settings say that it is Avro.

    What can't be decoded becomes null, and so malformed: also JSON, which the sink refuses then as well. A registry
    that is out of reach fails the batch: raises `ConfigurationError` at once if the settings name none.
    """
    if settings.kafka_encoding == "json":
        return records
    registry = RegistryConfig.from_settings(settings)
    topic = settings.kafka_topic

    def decode(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        serializer = _serializer(registry, topic)
        for batch in batches:
            values = [_as_json(value, serializer) for value in batch.column("value").to_pylist()]
            yield batch.set_column(batch.schema.get_field_index("value"), "value", pa.array(values, pa.binary()))

    return records.mapInArrow(decode, records.schema)


@cache
def _serializer(registry: RegistryConfig, topic: str) -> AvroEventSerializer:
    """Return that of this process: Spark keeps its Python workers, and so the schemas are asked for once."""
    return AvroEventSerializer(Registry(registry), topic)


def _as_json(value: bytes | None, serializer: AvroEventSerializer) -> bytes | None:
    if value is None:
        return None
    try:
        return JsonSerializer().serialize(serializer.deserialize(value))
    except SerializationError:
        return None
