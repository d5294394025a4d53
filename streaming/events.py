"""The event: a valid listen with its ids, as it travels through Kafka, and back.

listens in ListenBrainz form -> events -> bytes -> Kafka -> bytes -> ReceivedListen, or RefusedListen

The ids are computed here, by the producer, once; nobody behind Kafka derives them again. `schemas/listen.avsc` is the
same contract in Avro. What may change without a new version: fields that come, with a default.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

from music_pulse.identity import Identifier, key
from music_pulse.listens import Listen, RefusedListen, from_json, to_json, uuid_bytes, validate
from music_pulse.settings import Settings
from streaming.client.avro import AvroSerializer
from streaming.client.errors import SerializationError
from streaming.client.registry import Registry, RegistryConfig
from streaming.client.serializers import JsonSerializer, Serializer

VERSION = 1
"""Of the contract; a reader refuses events of a version that it doesn't know."""

SCHEMA_PATH = Path(__file__).parent / "schemas" / "listen.avsc"

_CACHED_IDS = 400_000


class TrackMetadata(TypedDict):
    """What was listened to, as ListenBrainz says it."""

    artist_name: str
    track_name: str
    release_name: NotRequired[str]
    additional_info: NotRequired[dict[str, Any]]
    mbid_mapping: NotRequired[dict[str, Any]]


class ListenEvent(TypedDict):
    """A listen in ListenBrainz form, its ids as text, times in seconds since 1970."""

    version: int
    listen_id: str
    track_id: str
    artist_id: str
    user_key: str
    user_name: str
    listened_at: int
    inserted_at: NotRequired[int]
    recording_msid: NotRequired[str]
    track_metadata: TrackMetadata


class Refused(NamedTuple):
    """A listen that is no event, and why."""

    listen: Any
    reason: str


class ReceivedListen(NamedTuple):
    """An event as its reader wants it: the listen as validated, the ids (16 bytes each) as the producer gave them."""

    listen: Listen
    listen_id: bytes
    track_id: bytes
    artist_id: bytes
    user_key: str


class EventBuilder:
    """Makes events of listens, many at a time: each distinct name is worked out once. Its caches are bounded."""

    def __init__(self) -> None:
        self._identifier = Identifier()
        self._texts: dict[bytes, str] = {}
        self._user_keys: dict[str, str] = {}

    def build(
        self, listens: Iterable[Any], *, now: float, user_name: str | None = None
    ) -> tuple[list[ListenEvent], list[Refused]]:
        """Return the events of `listens`, in order, and those refused; `now` is in seconds since 1970.

        `user_name` stands in where a listen names none.
        """
        given: list[Any] = []
        valid: list[Listen] = []
        refused: list[Refused] = []
        for listen in listens:
            try:
                valid.append(validate(listen, now=now, user_name=user_name))
                given.append(listen)
            except RefusedListen as error:
                refused.append(Refused(listen, str(error)))
        ids = self._identifier.identify(
            [listen.user_name for listen in valid],
            [listen.listened_at for listen in valid],
            [listen.artist_name for listen in valid],
            [listen.track_name for listen in valid],
        )
        rows = zip(valid, given, ids.listen_ids, ids.track_ids, ids.artist_ids, strict=True)
        return [self._event(*row) for row in rows], refused

    def _event(self, valid: Listen, given: Any, listen_id: bytes, track_id: bytes, artist_id: bytes) -> ListenEvent:
        metadata: TrackMetadata = {"artist_name": valid.artist_name, "track_name": valid.track_name}
        event: ListenEvent = {
            "version": VERSION,
            "listen_id": _uuid_text(listen_id),
            "track_id": self._text(track_id),
            "artist_id": self._text(artist_id),
            "user_key": self._user_key(valid.user_name),
            "user_name": valid.user_name,
            "listened_at": valid.listened_at,
            "track_metadata": metadata,
        }
        if valid.inserted_at is not None:
            event["inserted_at"] = int(valid.inserted_at)
        if valid.recording_msid is not None:
            event["recording_msid"] = _uuid_text(valid.recording_msid)
        if valid.album is not None:
            metadata["release_name"] = valid.album
        info = given["track_metadata"].get("additional_info")
        if info is not None:
            metadata["additional_info"] = info if type(info) is dict else {"additional_info": info}
        if valid.mbid_mapping is not None:
            metadata["mbid_mapping"] = given["track_metadata"]["mbid_mapping"]
        return event

    def _text(self, id_: bytes) -> str:
        text = self._texts.get(id_)
        if text is None:
            if len(self._texts) >= _CACHED_IDS:
                self._texts.clear()
            text = self._texts[id_] = _uuid_text(id_)
        return text

    def _user_key(self, user_name: str) -> str:
        folded = self._user_keys.get(user_name)
        if folded is None:
            if len(self._user_keys) >= _CACHED_IDS:
                self._user_keys.clear()
            folded = self._user_keys[user_name] = key(user_name)
        return folded


def _uuid_text(id_: bytes) -> str:
    text = id_.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def event_key(event: ListenEvent) -> bytes:
    """Return the key of an event: all listens of one user stay in order, in one partition."""
    return event["user_name"].encode()


def read_event(event: Any, *, now: float) -> ReceivedListen:
    """Read a decoded event; raises `RefusedListen` with the reason for which it is a dead letter."""
    if type(event) is not dict:
        raise RefusedListen("not a JSON object")
    version = event.get("version")
    if version != VERSION or type(version) is not int:
        raise RefusedListen("version is missing" if version is None else "version is unknown")
    user_key = event.get("user_key")
    if type(user_key) is not str or not user_key:
        raise RefusedListen("user_key is missing")
    listen = validate(event, now=now)
    return ReceivedListen(listen, _id(event, "listen_id"), _id(event, "track_id"), _id(event, "artist_id"), user_key)


def decode_event(value: bytes | None, serializer: Serializer[Any], *, now: float) -> ReceivedListen:
    """Read an event as it came from Kafka; like `read_event` for bytes that can't even be decoded."""
    if not value:
        raise RefusedListen("empty")
    try:
        event = serializer.deserialize(value)
    except SerializationError as error:
        raise RefusedListen("can't be decoded") from error
    return read_event(event, now=now)


def _id(event: dict[str, Any], name: str) -> bytes:
    id_ = uuid_bytes(event.get(name))
    if id_ is None:
        raise RefusedListen(f"{name} is not a UUID")
    return id_


class AvroEventSerializer:
    """Events in Avro: `additional_info` and `mbid_mapping`, which may hold anything, as JSON text."""

    def __init__(self, registry: Registry, topic: str) -> None:
        self._avro = AvroSerializer(registry, f"{topic}-value", SCHEMA_PATH.read_text(encoding="utf-8"))

    def serialize(self, value: ListenEvent) -> bytes:
        """Encode."""
        return self._avro.serialize(to_avro(value))

    def deserialize(self, data: bytes) -> ListenEvent:
        """Decode."""
        return from_avro(self._avro.deserialize(data))


def to_avro(event: ListenEvent) -> dict[str, Any]:
    """Return the event as the record of `schemas/listen.avsc`."""
    metadata: dict[str, Any] = dict(event["track_metadata"])
    for name in ("additional_info", "mbid_mapping"):
        if name in metadata:
            metadata[name] = to_json(metadata[name])
    return {**event, "track_metadata": metadata}


def from_avro(record: dict[str, Any]) -> ListenEvent:
    """Return the event of such a record; absent again is what Avro says is null."""
    event: Any = {name: value for name, value in record.items() if value is not None}
    metadata = {name: value for name, value in record["track_metadata"].items() if value is not None}
    for name in ("additional_info", "mbid_mapping"):
        if name in metadata:
            try:
                metadata[name] = from_json(metadata[name])
            except ValueError as error:
                raise SerializationError(f"{name} is not JSON: {error}") from None
    event["track_metadata"] = metadata
    return event  # type: ignore[no-any-return]


def event_serializer(settings: Settings) -> Serializer[ListenEvent]:
    """Return what the settings ask for: JSON, or Avro, whose schema is registered at once."""
    if settings.kafka_encoding == "json":
        return JsonSerializer()
    return AvroEventSerializer(Registry(RegistryConfig.from_settings(settings)), settings.kafka_topic)
