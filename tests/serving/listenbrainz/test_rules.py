"""Every rule of a submission, with its words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.errors import ApiError
from serving.listenbrainz.rules import ListenType, read_submission

NOW = 1_700_000_000.0
MBID = "30d08f4c-d825-4ae1-b79c-44242cddd7c0"
MINIMUM = 1_033_430_400
GOOD: dict[str, Any] = {
    "listened_at": 1_600_000_000,
    "track_metadata": {"artist_name": "Can", "track_name": "Vitamin C"},
}


def good(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


def metadata(**changes: Any) -> dict[str, Any]:
    return good(track_metadata={**GOOD["track_metadata"], **changes})


def info(**values: Any) -> dict[str, Any]:
    return metadata(additional_info=values)


def without(name: str) -> dict[str, Any]:
    kept = {key: value for key, value in GOOD["track_metadata"].items() if key != name}
    return good(track_metadata=kept)


def body(*listens: Any, listen_type: Any = "import") -> bytes:
    return json.dumps({"listen_type": listen_type, "payload": list(listens)}).encode()


def refusal(sent: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read_submission(sent, "ann", NOW)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b" " * 10_240_001, "Payload too large. Payload cannot exceed 10240000 bytes"),
        (b"", "Cannot parse JSON document: "),
        (b"{", "Cannot parse JSON document: "),
        (b'{"payload": NaN}', "Cannot parse JSON document: NaN is not JSON"),
        (b'{"payload": Infinity}', "Cannot parse JSON document: Infinity is not JSON"),
        (b"\xff\xfe{}", "Cannot parse JSON document: "),
        (b"[" * 100_000, "Cannot parse JSON document: "),
        (b"[]", "Invalid JSON document submitted. Top level of JSON document should be a json object."),
        (b'"x"', "Invalid JSON document submitted. Top level of JSON document should be a json object."),
        (b"null", "Invalid JSON document submitted. Top level of JSON document should be a json object."),
        (b"{}", "Invalid JSON document submitted."),
        (b'{"payload": []}', "Invalid JSON document submitted."),
        (b'{"listen_type": "single"}', "Invalid JSON document submitted."),
        (
            b'{"listen_type": "single", "payload": {}}',
            "The payload in the JSON document should be a list of listens.",
        ),
        (b'{"listen_type": "single", "payload": []}', "JSON document does not contain any listens"),
        (body(*[GOOD] * 1001), "Too many listens. You may not submit more than 1000 listens at once."),
        (
            body(metadata(x="y" * 10_240)),
            "JSON document is too large. Each listens may not be larger than 10240 bytes.",
        ),
        (body(GOOD, listen_type="scrobble"), "JSON document requires a valid listen_type key."),
        (body(GOOD, listen_type=None), "JSON document requires a valid listen_type key."),
        (body(GOOD, listen_type=["single"]), "JSON document requires a valid listen_type key."),
        (
            body(GOOD, GOOD, listen_type="single"),
            "JSON document contains more than listen for a single/playing_now. It should contain only one.",
        ),
        (
            body(GOOD, GOOD, listen_type="playing_now"),
            "JSON document contains more than listen for a single/playing_now. It should contain only one.",
        ),
    ],
)
def test_a_document_that_is_refused(sent: bytes, words: str) -> None:
    error = refusal(sent)
    assert str(error).startswith(words) if words.endswith(" ") else str(error) == words
    assert error.answer == {"code": 400, "error": str(error)}


TOO_LOW = (
    "Value for key listened_at is too low. listened_at timestamp should be greater than 1033410600 "
    "(2002-10-01 00:00:00 UTC)."
)
NO_INT = "JSON document must contain an int value for listened_at."


@pytest.mark.parametrize(
    ("listen", "words"),
    [
        (
            {"track_metadata": GOOD["track_metadata"]},
            "JSON document must contain the key listened_at at the top level.",
        ),
        (good(listened_at="yesterday"), NO_INT),
        (good(listened_at=None), NO_INT),
        (good(listened_at=[1]), NO_INT),
        (good(listened_at=True), NO_INT),
        (good(listened_at="1600000000.5"), NO_INT),
        (good(listened_at=int(NOW) + 3600), "Value for key listened_at is too high."),
        (good(listened_at=1_600_000_000_000), "Value for key listened_at is too high."),
        (good(listened_at=MINIMUM - 1), TOO_LOW),
        (good(listened_at=-1), TOO_LOW),
        ({"listened_at": 1_600_000_000}, "JSON document must contain the key track_metadata at the top level."),
        (
            good(recording_msid=MBID),
            "JSON document may only contain listened_at and track_metadata top level keys",
        ),
        (good(track_metadata=None), "JSON document may not have track_metadata with null value."),
        (good(track_metadata=[]), "track_metadata should be a json object."),
        (without("track_name"), "JSON document does not contain required track_metadata.track_name."),
        (without("artist_name"), "JSON document does not contain required track_metadata.artist_name."),
        (metadata(track_name=7), "track_metadata.track_name must be a string."),
        (metadata(artist_name=["Can"]), "track_metadata.artist_name must be a string."),
        (metadata(track_name=" \t"), "required field track_metadata.track_name is empty."),
        (metadata(artist_name=""), "required field track_metadata.artist_name is empty."),
        (metadata(release_name=7), "track_metadata.release_name must be a string."),
        (metadata(additional_info=[]), "track_metadata.additional_info should be a json object."),
        (
            info(tags=["a"] * 51),
            "JSON document may not contain more than 50 items in track_metadata.additional_info.tags.",
        ),
        (
            info(tags=["a" * 65]),
            "JSON document may not contain track_metadata.additional_info.tags longer than 64 characters.",
        ),
        (info(tags="rock"), "track_metadata.additional_info.tags must be a list of strings."),
        (info(tags=[1]), "track_metadata.additional_info.tags must be a list of strings."),
        (
            info(duration=1, duration_ms=1000),
            "JSON document should not contain both duration and duration_ms.",
        ),
        (info(duration=0), "Value for duration is invalid, should be a positive integer."),
        (info(duration="long"), "Value for duration is invalid, should be a positive integer."),
        (info(duration_ms=-1), "Value for duration_ms is invalid, should be a positive integer."),
        (info(duration_ms=True), "Value for duration_ms is invalid, should be a positive integer."),
        (info(duration=2_073_601), "Value for duration is too high, max permitted value is 2073600."),
        (info(duration_ms=2_073_600_001), "Value for duration_ms is too high, max permitted value is 2073600000."),
        *[
            (info(**{name: "no uuid"}), f"{name} MBID format invalid.")
            for name in ("release_mbid", "recording_mbid", "release_group_mbid", "track_mbid")
        ],
        *[(info(**{name: [MBID, "x"]}), f"{name} MBID format invalid.") for name in ("artist_mbids", "work_mbids")],
        (info(artist_mbids=MBID), "artist_mbids MBID format invalid."),
        (metadata(track_name="a\x00b"), "ab contains a unicode null"),
        (info(deep={"list": [{"x": "\x00"}]}), " contains a unicode null"),
        (info(**{"k\x00ey": 1}), "key contains a unicode null"),
    ],
)
def test_a_listen_that_is_refused(listen: Any, words: str) -> None:
    """The listen at fault is spread over the answer; one bad listen refuses all."""
    error = refusal(body(GOOD, listen))
    assert str(error) == words
    assert error.answer == {**listen, "code": 400, "error": words}


@pytest.mark.parametrize("listen", [None, 7, "x", []])
def test_what_is_no_listen(listen: Any) -> None:
    assert refusal(body(listen)).answer.keys() == {"code", "error"}


def test_a_lone_surrogate_in_a_name_can_not_be_stored() -> None:
    assert "lone surrogate" in str(refusal(body(metadata(track_name="\ud800"))))


@pytest.mark.parametrize(
    ("listen", "words"),
    [
        (GOOD, "JSON document must not contain listened_at while submitting playing_now."),
        ({}, "JSON document must contain the key track_metadata at the top level."),
        (
            {"track_metadata": GOOD["track_metadata"], "more": 1},
            "JSON document may only contain track_metadata as top level key when submitting playing_now.",
        ),
    ],
)
def test_playing_now_that_is_refused(listen: Any, words: str) -> None:
    assert str(refusal(body(listen, listen_type="playing_now"))) == words


def test_playing_now() -> None:
    submission = read_submission(
        body({"track_metadata": GOOD["track_metadata"]}, listen_type="playing_now"), "ann", NOW
    )
    assert submission.listen_type is ListenType.PLAYING_NOW
    assert submission.listens == [{"track_metadata": GOOD["track_metadata"]}]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (1_600_000_000.9, 1_600_000_000),
        ("1600000000", 1_600_000_000),
        (MINIMUM, MINIMUM),
        (int(NOW) + 3599, int(NOW) + 3599),
    ],
)
def test_times_that_are_taken(given: Any, kept: int) -> None:
    [listen] = read_submission(body(good(listened_at=given), listen_type="single"), "ann", NOW).listens
    assert listen["listened_at"] == kept


def test_what_is_blank_is_left_out() -> None:
    sent = metadata(
        track_name=" Vitamin C\n",
        release_name="  ",
        additional_info={
            "recording_mbid": "",
            "track_mbid": None,
            "artist_mbids": ["", None],
            "work_mbids": [MBID, ""],
        },
    )
    [listen] = read_submission(body(sent), "ann", NOW).listens
    assert listen["track_metadata"] == {
        "artist_name": "Can",
        "track_name": "Vitamin C",
        "additional_info": {"work_mbids": [MBID]},
    }


def test_a_thousand_listens_and_much_beside_them() -> None:
    listens = [
        metadata(track_name=f"{number}", additional_info={"a": {"b": [1]}, "tags": ["x" * 64] * 50})
        for number in range(1000)
    ]
    submission = read_submission(body(*listens), "ann", NOW)
    assert submission.listens == listens
    assert {valid.user_name for valid in submission.valid} == {"ann"}
