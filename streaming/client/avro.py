"""Avro on the wire as every registry client writes it: a zero byte, the schema's id in four, the value."""

from __future__ import annotations

import io
import json
import struct
from http import HTTPStatus
from typing import Any

from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.schema import SchemaParseException

from streaming.client.errors import RegistryError, SerializationError
from streaming.client.registry import Registry

MAGIC = 0
_HEADER = struct.Struct(">bI")


class AvroSerializer:
    """Writes records by one schema, registered under `subject` at once; reads those of any version of it.

    Fields that this schema lacks are skipped, those that an event lacks get this schema's default.
    """

    def __init__(self, registry: Registry, subject: str, schema: str) -> None:
        self._registry = registry
        try:
            self._schema = parse_schema(json.loads(schema))
        except (ValueError, SchemaParseException) as error:
            raise SerializationError(f"the schema of {subject} is no Avro schema: {error}") from error
        self.schema_id = registry.register(subject, schema)
        self._prefix = _HEADER.pack(MAGIC, self.schema_id)
        self._writers: dict[int, Any] = {self.schema_id: self._schema}

    def serialize(self, value: Any) -> bytes:
        """Encode a dictionary."""
        out = io.BytesIO()
        out.write(self._prefix)
        try:
            schemaless_writer(out, self._schema, value)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            raise SerializationError(f"doesn't fit the Avro schema: {error}") from None
        return out.getvalue()

    def deserialize(self, data: bytes) -> Any:
        """Decode; what has no header, an unknown schema, or isn't what its schema says, is refused.

        May ask the registry: raises `RegistryError` if that is out of reach.
        """
        if len(data) < _HEADER.size or data[0] != MAGIC:
            raise SerializationError("not Avro with a schema id")
        schema_id = _HEADER.unpack_from(data)[1]
        writer = self._writers.get(schema_id) or self._ask_for(schema_id)
        body = io.BytesIO(data)
        body.seek(_HEADER.size)
        try:
            return schemaless_reader(body, writer, self._schema)
        except Exception as error:  # fastavro raises whatever the broken bytes run it into
            raise SerializationError(f"not what schema {schema_id} says: {error}") from None

    def _ask_for(self, schema_id: int) -> Any:
        try:
            writer = parse_schema(json.loads(self._registry.schema(schema_id)))
        except RegistryError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            raise SerializationError(f"nobody knows schema {schema_id}") from error
        except (ValueError, SchemaParseException) as error:
            raise SerializationError(f"schema {schema_id} is no Avro schema: {error}") from error
        self._writers[schema_id] = writer
        return writer
