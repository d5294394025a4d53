"""What ListenBrainz takes as a submission: its checks, in its order, with its words.

body -> Submission, or ApiError

A listen that passes is one that `music_pulse.listens` keeps: its validation is asked last, and what it can't keep
(a lone surrogate, for one) is refused here, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from music_pulse.listens import (
    ALLOWED_SKEW_S,
    MAX_DURATION_MS,
    MIN_LISTENED_AT,
    Listen,
    RefusedListen,
    uuid_bytes,
    validate,
)
from serving.errors import ApiError
from serving.listenbrainz.body import MAX_BODY, TOO_LARGE

MAX_LISTENS = 1000
MAX_LISTEN_SIZE = 10_240
"""Bytes of a listen, on average over a request."""

MAX_TAGS = 50
MAX_TAG_SIZE = 64

_MBIDS = ("release_mbid", "recording_mbid", "release_group_mbid", "track_mbid")
_MBID_LISTS = ("artist_mbids", "work_mbids")
_TOO_LOW = (
    "Value for key listened_at is too low. listened_at timestamp should be greater than 1033410600 "
    "(2002-10-01 00:00:00 UTC)."
)


class ListenType(StrEnum):
    """What a submission is."""

    SINGLE = "single"
    IMPORT = "import"
    PLAYING_NOW = "playing_now"


class Submission(NamedTuple):
    """What somebody sent: listens as they are to be stored, and as they were validated."""

    listen_type: ListenType
    listens: list[dict[str, Any]]
    valid: list[Listen]


def read_submission(body: bytes, user_name: str, now: float) -> Submission:
    """Check a submission of a user; `now` is in seconds since 1970. All of it is taken, or `ApiError` raised."""
    if len(body) > MAX_BODY:
        raise ApiError(TOO_LARGE)
    document = _decoded(body)
    if not isinstance(document, dict):
        raise ApiError("Invalid JSON document submitted. Top level of JSON document should be a json object.")
    if "payload" not in document or "listen_type" not in document:
        raise ApiError("Invalid JSON document submitted.")
    payload = document["payload"]
    if not isinstance(payload, list):
        raise ApiError("The payload in the JSON document should be a list of listens.")
    if not payload:
        raise ApiError("JSON document does not contain any listens")
    if len(payload) > MAX_LISTENS:
        raise ApiError(f"Too many listens. You may not submit more than {MAX_LISTENS} listens at once.")
    if len(body) > len(payload) * MAX_LISTEN_SIZE:
        raise ApiError(f"JSON document is too large. Each listens may not be larger than {MAX_LISTEN_SIZE} bytes.")
    try:
        listen_type = ListenType(document["listen_type"])
    except (ValueError, TypeError):
        raise ApiError("JSON document requires a valid listen_type key.") from None
    if listen_type is not ListenType.IMPORT and len(payload) > 1:
        raise ApiError("JSON document contains more than listen for a single/playing_now. It should contain only one.")
    listens = [_checked(listen, listen_type, now) for listen in payload]
    return Submission(listen_type, listens, [_validated(listen, user_name, now) for listen in listens])


def _decoded(body: bytes) -> Any:
    """Read strict JSON: no NaN, no bytes that aren't UTF-8."""
    import json

    def no_constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        return json.loads(body.decode("utf-8-sig"), parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise ApiError(f"Cannot parse JSON document: {reason}") from None


def _checked(listen: Any, listen_type: ListenType, now: float) -> dict[str, Any]:
    """Return a listen with what ListenBrainz strips stripped."""
    if not isinstance(listen, dict):
        raise ApiError(
            "Listen is empty and cannot be validated." if listen is None else "Each listen should be a json object."
        )
    checked = dict(listen)
    if listen_type is ListenType.PLAYING_NOW:
        if "listened_at" in listen:
            raise ApiError("JSON document must not contain listened_at while submitting playing_now.", listen=listen)
    else:
        checked["listened_at"] = _listened_at(listen, now)
    if "track_metadata" not in listen:
        raise ApiError("JSON document must contain the key track_metadata at the top level.", listen=listen)
    if len(listen) > (1 if listen_type is ListenType.PLAYING_NOW else 2):
        raise ApiError(
            "JSON document may only contain track_metadata as top level key when submitting playing_now."
            if listen_type is ListenType.PLAYING_NOW
            else "JSON document may only contain listened_at and track_metadata top level keys",
            listen=listen,
        )
    checked["track_metadata"] = _metadata(listen)
    _refuse_null_characters(listen, listen)
    return checked


def _listened_at(listen: Mapping[str, Any], now: float) -> int:
    if "listened_at" not in listen:
        raise ApiError("JSON document must contain the key listened_at at the top level.", listen=listen)
    value = listen["listened_at"]
    try:
        if isinstance(value, bool):
            raise ValueError
        second = int(value)
    except (ValueError, TypeError, OverflowError):
        raise ApiError("JSON document must contain an int value for listened_at.", listen=listen) from None
    if second >= now + ALLOWED_SKEW_S:
        raise ApiError("Value for key listened_at is too high.", listen=listen)
    if second < MIN_LISTENED_AT:
        raise ApiError(_TOO_LOW, listen=listen)
    return second


def _metadata(listen: Mapping[str, Any]) -> dict[str, Any]:
    metadata = listen["track_metadata"]
    if metadata is None:
        raise ApiError("JSON document may not have track_metadata with null value.", listen=listen)
    if not isinstance(metadata, dict):
        raise ApiError("track_metadata should be a json object.", listen=listen)
    checked = dict(metadata)
    for name in ("track_name", "artist_name"):
        if name not in metadata:
            raise ApiError(f"JSON document does not contain required track_metadata.{name}.", listen=listen)
        if not isinstance(metadata[name], str):
            raise ApiError(f"track_metadata.{name} must be a string.", listen=listen)
        checked[name] = metadata[name].strip()
        if not checked[name]:
            raise ApiError(f"required field track_metadata.{name} is empty.", listen=listen)
    release = metadata.get("release_name")
    if release is not None and not isinstance(release, str):
        raise ApiError("track_metadata.release_name must be a string.", listen=listen)
    if release is None or not release.strip():
        checked.pop("release_name", None)
    else:
        checked["release_name"] = release.strip()
    info = metadata.get("additional_info")
    if info is None:
        checked.pop("additional_info", None)
    elif not isinstance(info, dict):
        raise ApiError("track_metadata.additional_info should be a json object.", listen=listen)
    else:
        checked["additional_info"] = _additional_info(info, listen)
    return checked


def _additional_info(info: Mapping[str, Any], listen: Mapping[str, Any]) -> dict[str, Any]:
    checked = dict(info)
    _check_tags(info.get("tags"), listen)
    _check_duration(info, listen)
    for name in _MBIDS:
        if name in info:
            if info[name] in (None, ""):
                del checked[name]
            else:
                _check_mbid(name, info[name], listen)
    for name in _MBID_LISTS:
        if name in info:
            if info[name] is not None and not isinstance(info[name], list):
                raise ApiError(f"{name} MBID format invalid.", listen=listen)
            kept = [mbid for mbid in info[name] or () if mbid not in (None, "")]
            for mbid in kept:
                _check_mbid(name, mbid, listen)
            checked[name] = kept
            if not kept:
                del checked[name]
    return checked


def _check_tags(tags: Any, listen: Mapping[str, Any]) -> None:
    if tags is None:
        return
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ApiError("track_metadata.additional_info.tags must be a list of strings.", listen=listen)
    if len(tags) > MAX_TAGS:
        raise ApiError(
            f"JSON document may not contain more than {MAX_TAGS} items in track_metadata.additional_info.tags.",
            listen=listen,
        )
    if any(len(tag) > MAX_TAG_SIZE for tag in tags):
        raise ApiError(
            f"JSON document may not contain track_metadata.additional_info.tags longer than {MAX_TAG_SIZE} characters.",
            listen=listen,
        )


def _check_duration(info: Mapping[str, Any], listen: Mapping[str, Any]) -> None:
    if "duration" in info and "duration_ms" in info:
        raise ApiError("JSON document should not contain both duration and duration_ms.", listen=listen)
    for name, longest in (("duration", MAX_DURATION_MS // 1000), ("duration_ms", MAX_DURATION_MS)):
        if name not in info:
            continue
        try:
            number = int(info[name])
            if isinstance(info[name], bool) or number <= 0:
                raise ValueError
        except (ValueError, TypeError, OverflowError):
            raise ApiError(f"Value for {name} is invalid, should be a positive integer.", listen=listen) from None
        if number > longest:
            raise ApiError(f"Value for {name} is too high, max permitted value is {longest}.", listen=listen)


def _check_mbid(name: str, mbid: Any, listen: Mapping[str, Any]) -> None:
    if uuid_bytes(mbid) is None:
        raise ApiError(f"{name} MBID format invalid.", listen=listen)


def _refuse_null_characters(value: Any, listen: Mapping[str, Any]) -> None:
    """Look through all strings, keys included; not by recursion: a listen may be nested deeply."""
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, str):
            if "\x00" in item:
                shown = item.replace("\x00", "")[:100]
                raise ApiError(f"{shown} contains a unicode null", listen=listen)
        elif isinstance(item, dict):
            rest += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            rest += item


def _validated(listen: dict[str, Any], user_name: str, now: float) -> Listen:
    """Ask what keeps listens whether it keeps this one. A playing_now has no time: it is given one."""
    try:
        return validate({"listened_at": int(now), **listen}, now=now, user_name=user_name)
    except RefusedListen as error:
        raise ApiError(f"The listen can't be stored: {error}.", listen=listen) from None
