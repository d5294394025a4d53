"""Avro with a real registry (Apicurio, by its Confluent API): what it lets a schema become, and who still reads."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apicurio import running_registry
from helpers import listen
from streams import ReadAll, unique

from music_pulse.settings import load_settings
from streaming.client import (
    AvroSerializer,
    KafkaConfig,
    Producer,
    Registry,
    RegistryConfig,
    RegistryError,
    SerializationError,
    Topic,
    ensure_topics,
)
from streaming.events import SCHEMA_PATH, EventBuilder, decode_event, event_serializer

pytestmark = pytest.mark.integration

NOW = 1_800_000_000.0
LISTEN = SCHEMA_PATH.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def registry_url(jar_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that runs as long as this module's tests do, in memory."""
    with running_registry(tmp_path_factory.mktemp("registry"), jar_cache, {}) as url:
        yield f"{url}/apis/ccompat/v7"


@pytest.fixture
def registry(registry_url: str) -> Registry:
    return Registry(RegistryConfig(registry_url))


@pytest.fixture
def subject() -> str:
    return unique("listens") + "-value"


def changed(schema: str, *, add: dict[str, Any] | None = None, remove: str | None = None) -> str:
    """Return a schema with a field more or a field less."""
    found = copy.deepcopy(json.loads(schema))
    if add is not None:
        found["fields"].append(add)
    found["fields"] = [field for field in found["fields"] if field["name"] != remove]
    return json.dumps(found)


MOOD = {"name": "mood", "type": "string", "default": "unknown"}
EVENT = {
    "version": 1,
    "listen_id": "l",
    "track_id": "t",
    "artist_id": "a",
    "user_key": "ann",
    "user_name": "Ann",
    "listened_at": 1_700_000_000,
    "track_metadata": {"artist_name": "Artist", "track_name": "Track"},
}


def test_an_added_field_with_a_default_is_accepted_and_old_and_new_readers_read_all(
    registry: Registry, subject: str
) -> None:
    old = AvroSerializer(registry, subject, LISTEN)
    registry.set_compatibility(subject, "FULL")
    new = AvroSerializer(registry, subject, changed(LISTEN, add=MOOD))
    assert new.schema_id != old.schema_id
    by_old, by_new = old.serialize(EVENT), new.serialize({**EVENT, "mood": "glad"})
    nothing = {"inserted_at": None, "recording_msid": None}
    metadata = {**EVENT["track_metadata"], "release_name": None, "additional_info": None, "mbid_mapping": None}  # type: ignore[dict-item]
    whole = {**EVENT, **nothing, "track_metadata": metadata}
    assert old.deserialize(by_new) == old.deserialize(by_old) == whole
    assert new.deserialize(by_new) == {**whole, "mood": "glad"}
    assert new.deserialize(by_old) == {**whole, "mood": "unknown"}
    # A reader that starts later finds the schemas of both in the registry.
    late = AvroSerializer(registry, subject, LISTEN)
    assert late.deserialize(by_new) == whole


@pytest.mark.parametrize(
    ("level", "schema"),
    [
        ("FULL", changed(LISTEN, remove="user_key")),
        ("FORWARD", changed(LISTEN, remove="user_key")),
        ("FULL", changed(LISTEN, add={"name": "mood", "type": "string"})),
        ("BACKWARD", changed(LISTEN, add={"name": "mood", "type": "string"})),
        ("FULL", changed(LISTEN, remove="listened_at", add={"name": "listened_at", "type": "string"})),
    ],
    ids=["removed", "removed, forward", "added without default", "same, backward", "another type"],
)
def test_a_change_that_would_break_a_reader_is_refused(
    registry: Registry, subject: str, level: Any, schema: str
) -> None:
    registry.register(subject, LISTEN)
    registry.set_compatibility(subject, level)
    with pytest.raises(
        RegistryError, match=rf"registering a schema of {subject} failed: .* answered 409: .*\w+"
    ) as caught:
        AvroSerializer(registry, subject, schema)
    assert "\n" not in str(caught.value)


def test_the_same_schema_has_one_id(registry: Registry, subject: str) -> None:
    assert registry.register(subject, LISTEN) == registry.register(subject, LISTEN)


def test_the_wire_format_is_a_zero_byte_the_id_and_the_value(registry: Registry, subject: str) -> None:
    serializer = AvroSerializer(
        registry, subject, '{"type": "record", "name": "A", "fields": [{"name": "n", "type": "int"}]}'
    )
    assert serializer.serialize({"n": 1}) == b"\x00" + serializer.schema_id.to_bytes(4, "big") + b"\x02"


def test_what_does_not_fit_is_a_serialization_error(registry: Registry, subject: str) -> None:
    serializer = AvroSerializer(registry, subject, LISTEN)
    for value in ({}, {**EVENT, "listened_at": "late"}, {**EVENT, "listened_at": 2**70}, None, "text"):
        with pytest.raises(SerializationError):
            serializer.serialize(value)
    whole = serializer.serialize(EVENT)
    for data in (b"", b"\x00", b"{}", b"\x01" + whole[1:], whole[:-3], whole[:5]):
        with pytest.raises(SerializationError):
            serializer.deserialize(data)
    with pytest.raises(SerializationError, match="nobody knows schema 99999999"):
        serializer.deserialize(b"\x00" + (99_999_999).to_bytes(4, "big") + whole[5:])


def test_what_is_no_schema_is_refused_before_anybody_is_asked(registry: Registry, subject: str) -> None:
    for schema in ("{", '{"type": "strange"}'):
        with pytest.raises(SerializationError, match="no Avro schema"):
            AvroSerializer(registry, subject, schema)


def test_listens_travel_in_avro_through_kafka(registry_url: str, config: KafkaConfig, read_all: ReadAll) -> None:
    topic = unique("listens")
    settings = load_settings(kafka_encoding="avro", schema_registry_url=registry_url, kafka_topic=topic)
    ensure_topics(config, [Topic(topic, 1)])
    serializer = event_serializer(settings)
    odd = listen(1_700_000_001, "Ⅷ", "Sigur Rós", album="Takk…")
    odd["track_metadata"] |= {"additional_info": {"a\x00": "\ud800", "n": [1.5, None]}, "mbid_mapping": {"x": []}}
    events, _ = EventBuilder().build([listen(1_700_000_000), odd], now=NOW)
    with Producer(config, topic, serializer) as producer:
        for event in events:
            producer.send(event["user_name"], event)
    records = read_all(topic, 2)
    assert [serializer.deserialize(record.value or b"") for record in records] == events
    received = [decode_event(record.value, serializer, now=NOW) for record in records]
    assert [one.listen.track_name for one in received] == ["Track", "Ⅷ"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/apis/ccompat/v7", "http://no-such-host.invalid"])
def test_a_wrong_address_is_told_in_one_line(url: str) -> None:
    registry = Registry(RegistryConfig(url, timeout=1))
    with pytest.raises(RegistryError, match=f"{url} doesn't answer .*check PULSE_SCHEMA_REGISTRY_URL") as caught:
        registry.register("listens-value", LISTEN)
    assert "\n" not in str(caught.value)


def test_a_wrong_path_is_told_in_one_line(registry_url: str) -> None:
    registry = Registry(RegistryConfig(registry_url + "/nowhere", "ann", "hush"))
    with pytest.raises(RegistryError, match="answered 404.*check PULSE_SCHEMA_REGISTRY_URL") as caught:
        registry.register("listens-value", LISTEN)
    assert "hush" not in str(caught.value)
