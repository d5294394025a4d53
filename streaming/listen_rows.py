"""Records of the topic -> rows of raw.stream_listens, each listen once, and what is refused, with the reason.

Pure: what comes of a record depends on the record alone, so that one that is read again gives the same again.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator
from hashlib import md5
from typing import NamedTuple

from music_pulse.blocklist import Blocklist
from music_pulse.identity import Identifier, key
from music_pulse.listens import RefusedListen
from streaming.client.records import Record
from streaming.client.serializers import Serializer
from streaming.events import ListenEvent, ReceivedListen, decode_event

SOURCE = "stream"
"""Column `source` of every row that came through Kafka."""

UUIDS = frozenset(
    {"listen_id", "artist_id", "track_id", "recording_msid", "recording_mbid", "release_mbid", "payload_hash"}
)
"""The columns that are UUIDs."""

_NO_MSID = "f" * 32
_CACHED_USERS = 100_000
_NOBODY = Blocklist()


class StreamRow(NamedTuple):
    """A row of raw.stream_listens; UUIDs as 32 hexadecimal digits, times in seconds (Kafka's: ms) since 1970."""

    listen_id: str
    artist_id: str
    track_id: str
    user_name: str
    user_key: str
    listened_at: int
    artist_name: str
    track_name: str
    album: str | None
    artist_key: str
    track_key: str
    duration_ms: int | None
    recording_msid: str | None
    recording_mbid: str | None
    release_mbid: str | None
    artist_mbids: str | None
    submission_client: str | None
    additional_info: str | None
    mbid_mapping: str | None
    inserted_at: int | None
    source: str
    origin: str | None
    payload_hash: str
    kafka_topic: str
    kafka_partition: int
    kafka_offset: int
    kafka_timestamp: int

    @property
    def preference(self) -> tuple[int, bool, str, str]:
        """By which rows of one listen are compared: the smallest says most, whichever came first."""
        return -(self.duration_ms or 0), self.album is None, self.recording_msid or _NO_MSID, self.payload_hash


class Refusal(NamedTuple):
    """A record that is no listen, and why: a short stable phrase."""

    record: Record
    reason: str


class Reading(NamedTuple):
    """What came of a batch: each listen once, in the order of the first records, and the rest."""

    rows: list[StreamRow]
    refused: list[Refusal]


class ListenReader:
    """Reads records of the topic. An event of more than `max_bytes` is refused. Its caches are bounded."""

    def __init__(self, serializer: Serializer[ListenEvent], max_bytes: int) -> None:
        self._serializer = serializer
        self._max_bytes = max_bytes
        self._identifier = Identifier()
        self._user_key = functools.lru_cache(_CACHED_USERS)(key)

    def read(self, records: Iterable[Record], blocklist: Blocklist = _NOBODY) -> Reading:
        """Validate, check the ids that the events carry, and unite the events of one listen.

        What is of somebody on `blocklist` is passed over: it is neither a row nor refused, since that would keep it.
        """
        refused: list[Refusal] = []
        received: list[tuple[Record, ReceivedListen]] = []
        for record in records:
            if blocklist and record.key is not None and record.key.decode(errors="replace") in blocklist:
                continue
            try:
                got = self._decode(record)
            except RefusedListen as error:
                refused.append(Refusal(record, str(error)))
            else:
                if got.listen.user_name not in blocklist:
                    received.append((record, got))
        best: dict[str, StreamRow] = {}
        for record, row, reason in self._identified(received):
            if reason is not None:
                refused.append(Refusal(record, reason))
            elif (first := best.setdefault(row.listen_id, row)) is not row:
                best[row.listen_id] = united(first, row)
        return Reading(list(best.values()), refused)

    def _decode(self, record: Record) -> ReceivedListen:
        if record.value is not None and len(record.value) > self._max_bytes:
            raise RefusedListen("larger than an event may be")
        # "Now" is when the broker got it: the verdict mustn't depend on when, or how often, we read it.
        now = record.timestamp_ms / 1000 if record.timestamp_ms > 0 else time.time()
        return decode_event(record.value, self._serializer, now=now)

    def _identified(
        self, received: list[tuple[Record, ReceivedListen]]
    ) -> Iterator[tuple[Record, StreamRow, str | None]]:
        """Yield each listen with its row and, if it carries an id that isn't its own, the reason to refuse it."""
        listens = [got.listen for _, got in received]
        ids = self._identifier.identify(
            [listen.user_name for listen in listens],
            [listen.listened_at for listen in listens],
            [listen.artist_name for listen in listens],
            [listen.track_name for listen in listens],
        )
        owns = zip(ids.listen_ids, ids.artist_ids, ids.track_ids, ids.artist_keys, ids.track_keys, strict=True)
        for (record, got), (listen_id, artist_id, track_id, artist_key, track_key) in zip(received, owns, strict=True):
            reason = None
            if got.listen_id != listen_id:
                reason = "listen_id is not the listen's"
            elif got.track_id != track_id:
                reason = "track_id is not the track's"
            elif got.artist_id != artist_id:
                reason = "artist_id is not the artist's"
            elif got.user_key != self._user_key(got.listen.user_name):
                reason = "user_key is not the user's"
            yield record, _row(record, got, artist_key, track_key), reason


def united(first: StreamRow, later: StreamRow) -> StreamRow:
    """Return what two rows of one listen come to: the one that says more, where the first one stood in Kafka."""
    if later.preference >= first.preference:
        return first
    return later._replace(
        kafka_topic=first.kafka_topic,
        kafka_partition=first.kafka_partition,
        kafka_offset=first.kafka_offset,
        kafka_timestamp=first.kafka_timestamp,
    )


def _row(record: Record, got: ReceivedListen, artist_key: str, track_key: str) -> StreamRow:
    listen = got.listen
    return StreamRow(
        got.listen_id.hex(),
        got.artist_id.hex(),
        got.track_id.hex(),
        listen.user_name,
        got.user_key,
        listen.listened_at,
        listen.artist_name,
        listen.track_name,
        listen.album,
        artist_key,
        track_key,
        listen.duration_ms,
        _hex(listen.recording_msid),
        _hex(listen.recording_mbid),
        _hex(listen.release_mbid),
        listen.artist_mbids,
        listen.submission_client,
        listen.additional_info,
        listen.mbid_mapping,
        None if listen.inserted_at is None else int(listen.inserted_at),
        SOURCE,
        None,
        md5(record.value or b"", usedforsecurity=False).hexdigest(),
        record.topic,
        record.partition,
        record.offset,
        record.timestamp_ms,
    )


def _hex(uuid: bytes | None) -> str | None:
    return None if uuid is None else uuid.hex()
