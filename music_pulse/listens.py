"""What a listen is: one place validates the ListenBrainz form and makes raw rows of it.

listen (a decoded JSON object) -> Listen, or RefusedListen with a reason

The limits are ListenBrainz' own (webserver/views/api_tools.py, listenstore/__init__.py). Nothing that can be
kept is refused: only a listen without a usable user, time, artist or track is.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import orjson

MIN_LISTENED_AT = 1_033_430_400
"""2002-10-01T00:00:00Z, when Audioscrobbler began; earlier times are wrong clocks."""

ALLOWED_SKEW_S = 3600
"""How far ahead of now `listened_at` may be, in seconds."""

MAX_DURATION_MS = 2_073_600_000
"""24 days; a longer duration is taken as unknown."""

MAX_USER_NAME = 255

_YEAR_10000 = 253_402_300_800
_NESTING = 10_000

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}\Z")
_TYPED_INFO = frozenset(
    {
        "duration",
        "duration_ms",
        "recording_msid",
        "recording_mbid",
        "release_mbid",
        "artist_mbids",
        "submission_client",
    }
)


_GOOD_NAMES = 200_000
_good_names: dict[str, str] = {}
"""Names that were looked at already: most listens repeat them. Bounded.

Each is itself: where listens share one text instead of equal ones, all that follows finds it faster.
"""
_good_users: dict[str, str] = {}
"""Likewise user names."""


class RefusedListen(ValueError):
    """A listen that can't be kept; its text is the reason, a short stable phrase."""


class Listen(NamedTuple):
    """A valid listen, in the order of the raw columns; UUIDs as 16 bytes, times in seconds since 1970."""

    user_name: str
    listened_at: int
    artist_name: str
    track_name: str
    album: str | None
    duration_ms: int | None
    recording_msid: bytes | None
    recording_mbid: bytes | None
    release_mbid: bytes | None
    artist_mbids: str | None
    submission_client: str | None
    additional_info: str | None
    mbid_mapping: str | None
    inserted_at: float | None


class _Metadata(msgspec.Struct, gc=False):
    """`track_metadata`, its values as they came."""

    artist_name: Any = None
    track_name: Any = None
    release_name: Any = None
    recording_msid: Any = None
    additional_info: dict[str, Any] | None = None
    mbid_mapping: dict[str, Any] | None = None


class _Listen(msgspec.Struct, gc=False):
    """A listen in ListenBrainz form, its values as they came."""

    track_metadata: _Metadata
    listened_at: Any = None
    user_name: Any = None
    recording_msid: Any = None
    inserted_at: Any = None


_decode_listen = msgspec.json.Decoder(_Listen).decode


Values = tuple[
    str, int, str, str, str | None, int | None, bytes | None, bytes | None, bytes | None, str | None, str | None,
    str | None, str | None, float | None,
]  # fmt: skip
"""The values of a `Listen`, as a plain tuple: it is made in a fifth of the time."""


def validate_line(line: bytes, *, now: float, user_name: str | None = None) -> Values:
    """Read one listen in JSON, to what `validate(from_json(line))` returns, in half the time.

    Raises `RefusedListen`, and `ValueError` for what is no JSON.
    """
    try:
        listen = _decode_listen(line)
    except (ValueError, RecursionError):  # of another shape, or beyond this decoder
        return validate(from_json(line), now=now, user_name=user_name)
    return _valid(listen, now, user_name)


def validate(listen: Any, *, now: float, user_name: str | None = None) -> Listen:
    """Read one decoded listen; `user_name` stands in where the listen names none.

    `now` is in seconds since 1970. Raises `RefusedListen`.
    """
    if type(listen) is not dict:
        raise RefusedListen("not a JSON object")
    metadata = listen.get("track_metadata")
    if type(metadata) is not dict:
        raise RefusedListen("track_metadata is missing")
    info, mapping = metadata.get("additional_info"), metadata.get("mbid_mapping")
    if info is not None and type(info) is not dict:
        info = {"additional_info": info}
    shaped = _Metadata(
        metadata.get("artist_name"),
        metadata.get("track_name"),
        metadata.get("release_name"),
        metadata.get("recording_msid"),
        info,
        mapping if type(mapping) is dict else None,
    )
    others = (listen.get(name) for name in ("listened_at", "user_name", "recording_msid", "inserted_at"))
    return Listen._make(_valid(_Listen(shaped, *others), now, user_name))


def _valid(listen: _Listen, now: float, user_name: str | None) -> Values:
    # Most names were looked at before; what is done for every listen of millions is done without a call.
    metadata = listen.track_metadata
    listened_at = listen.listened_at
    if type(listened_at) is not int or not MIN_LISTENED_AT <= listened_at < now:
        listened_at = _listened_at(listened_at, now)
    user: Any = listen.user_name or user_name
    try:
        user = _good_users[user]
    except (KeyError, TypeError):
        user = _user_name(user)
    artist = metadata.artist_name
    try:
        artist = _good_names[artist]
    except (KeyError, TypeError):
        artist = _name(artist, "artist_name")
    track = metadata.track_name
    try:
        track = _good_names[track]
    except (KeyError, TypeError):
        track = _name(track, "track_name")
    album = metadata.release_name
    if album is not None:
        try:
            album = _good_names[album]
        except (KeyError, TypeError):
            album = _album(album)
    info, mapping, inserted_at = metadata.additional_info or {}, metadata.mbid_mapping, listen.inserted_at
    msid = listen.recording_msid or metadata.recording_msid
    duration = mbid = release_mbid = artist_mbids = client = rest = None
    if info:
        duration = info.get("duration_ms")
        if type(duration) is not int or not 0 < duration <= MAX_DURATION_MS:
            duration = _duration_ms(info)
        if len(info) > 1 or "duration_ms" not in info:
            msid = msid or info.get("recording_msid")
            client = info.get("submission_client")
            rest = None if info.keys() <= _TYPED_INFO else to_json(info)
            mbid, release_mbid, artist_mbids = _mbids(info, mapping or {})
    if mapping and mbid is None and release_mbid is None and artist_mbids is None:
        mbid, release_mbid, artist_mbids = _mbids({}, mapping)
    return (
        user,
        listened_at,
        artist,
        track,
        album,
        duration,
        uuid_bytes(msid) if msid else None,
        mbid,
        release_mbid,
        artist_mbids,
        None if client is None else _text(client),
        rest,
        to_json(mapping) if mapping else None,
        None if inserted_at is None else _inserted_at(inserted_at),
    )


def _mbids(info: Mapping[str, Any], mapped: Mapping[str, Any]) -> tuple[bytes | None, bytes | None, str | None]:
    """Return recording, release and (as JSON) artist MBIDs: what was submitted, else what was mapped."""
    recording = info.get("recording_mbid") or mapped.get("recording_mbid")
    release = info.get("release_mbid") or mapped.get("release_mbid")
    artists = info.get("artist_mbids") or mapped.get("artist_mbids")
    return (
        (uuid_bytes(recording) or uuid_bytes(mapped.get("recording_mbid"))) if recording else None,
        (uuid_bytes(release) or uuid_bytes(mapped.get("release_mbid"))) if release else None,
        to_json(artists) if artists else None,
    )


def to_json(value: Any) -> str:
    """Write canonical JSON (sorted keys) that Postgres can store: NUL and lone surrogates stay escaped."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError):  # lone surrogates, integers beyond 64 bits, very deep nesting
        import json

        limit = sys.getrecursionlimit()
        try:
            sys.setrecursionlimit(limit + _NESTING)  # what could be decoded can be encoded
            return json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
        finally:
            sys.setrecursionlimit(limit)


def from_json(text: bytes | str) -> Any:
    """Decode JSON; also what msgspec refuses and ListenBrainz sends (lone surrogates, huge numbers).

    Raises `ValueError`.
    """
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        return orjson.loads(text)  # goes deeper
    except ValueError:
        import json

        try:
            return json.loads(text)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def escaped(payload: bytes | str) -> str:
    """Make any bytes storable as text: undecodable bytes, NUL and lone surrogates are backslash-escaped."""
    text = payload.decode("utf-8", "backslashreplace") if isinstance(payload, bytes) else payload
    return _UNSTORABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def uuid_bytes(value: Any) -> bytes | None:
    """Return the 16 bytes of a UUID in text form; None for anything else."""
    if type(value) is not str or not _UUID.match(value):
        return None
    return bytes.fromhex(value.replace("-", ""))


def _listened_at(value: Any, now: float) -> int:
    if type(value) is not int:
        if value is None:
            raise RefusedListen("listened_at is missing")
        number = _seconds(value)
        if number is None:
            raise RefusedListen("listened_at is not a number")
        value = int(number)
    second: int = value
    if second < MIN_LISTENED_AT:
        raise RefusedListen("listened_at is before 2002-10-01")
    if second >= now + ALLOWED_SKEW_S:
        raise RefusedListen("listened_at is in the future")
    return second


def _seconds(value: Any) -> float | None:
    """Read a number as ListenBrainz does: numbers and numeric strings, no booleans, no NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < 1e15 else None


def _inserted_at(value: Any) -> float | None:
    """Read when ListenBrainz received the listen; None for what no clock can have said (and Postgres not store)."""
    number = _seconds(value)
    return number if number is not None and MIN_LISTENED_AT <= number < _YEAR_10000 else None


def is_name(value: Any) -> bool:
    """Whether artists, tracks and albums can have this name."""
    return type(value) is str and not _UNSTORABLE.search(value) and not _is_blank(value)


def _is_blank(name: str) -> bool:
    return not unicodedata.normalize("NFC", name).strip()


def _name(value: Any, field: str) -> str:
    if type(value) is not str:
        raise RefusedListen(f"{field} is missing" if value is None else f"{field} is not text")
    if _UNSTORABLE.search(value):
        raise RefusedListen(f"{field} has a NUL or a lone surrogate")
    if _is_blank(value):
        raise RefusedListen(f"{field} is blank")
    return _remembered(value, _good_names)


def _remembered(name: str, names: dict[str, str]) -> str:
    if len(names) >= _GOOD_NAMES:
        names.clear()
    names[name] = name
    return name


def _user_name(value: Any) -> str:
    name = _name(value, "user_name")
    if len(name) > MAX_USER_NAME:
        raise RefusedListen(f"user_name is longer than {MAX_USER_NAME} characters")
    return _remembered(name, _good_users)


def _album(value: Any) -> str | None:
    if type(value) is not str or _is_blank(value):
        return None
    if _UNSTORABLE.search(value):
        raise RefusedListen("release_name has a NUL or a lone surrogate")
    return _remembered(value, _good_names)


def _text(value: Any) -> str | None:
    return escaped(value) if type(value) is str and value else None


def _duration_ms(info: Mapping[str, Any]) -> int | None:
    """Read `duration_ms`, else `duration` (seconds); None unless positive and at most 24 days."""
    value = info.get("duration_ms")
    if type(value) is int and 0 < value <= MAX_DURATION_MS:
        return value
    factor = 1
    if value is None:
        value, factor = info.get("duration"), 1000
    if type(value) is not int:
        number = _seconds(value)
        if number is None:
            return None
        value = int(number)
    duration = value * factor
    return duration if 0 < duration <= MAX_DURATION_MS else None
