"""What the double answers on `/1/metadata/recording/`: metadata by MBID, in the form of the real server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

INCLUDED = ("artist", "tag", "release")


def recording(
    name: str,
    *,
    length: int | None = None,
    artists: Mapping[str, str] | None = None,
    release: Mapping[str, Any] | None = None,
    genres: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return the metadata of one recording; `artists` are names by MBID, `genres` votes by name, `length` is in ms."""
    joined = [{"artist_mbid": mbid, "name": artist, "join_phrase": ""} for mbid, artist in (artists or {}).items()]
    tags = [{"tag": tag, "count": votes, "genre_mbid": str(UUID(int=1))} for tag, votes in (genres or {}).items()]
    return {
        "recording": {"name": name, "rels": [], **({} if length is None else {"length": length})},
        "artist": {"name": " & ".join((artists or {}).values()), "artists": joined},
        "release": dict(release or {}),
        "tag": {"recording": [*tags, {"tag": "seen live", "count": 99}], "artist": [], "release_group": []},
    }


def answer(known: Mapping[str, Any], query: Mapping[str, str]) -> dict[str, Any] | str:
    """Return what the server answers, or the words with which it refuses."""
    if "recording_mbids" not in query:
        return "recording_mbids argument must be present and contain a comma separated list of recording_mbids"
    wanted = [mbid.strip() for mbid in query["recording_mbids"].split(",")]
    for mbid in wanted:
        try:
            UUID(mbid)
        except ValueError:
            return f"Recording mbid {mbid} is not valid."
    parts = ("recording", *query.get("inc", "").split())
    if not set(parts[1:]) <= set(INCLUDED):
        return f"invalid inc argument. Must be one of {', '.join(INCLUDED)}."
    found: dict[str, Any] = {}
    for mbid in wanted:
        if mbid in known:
            data = known[mbid]
            found[mbid] = {part: data[part] for part in parts if part in data} if isinstance(data, dict) else data
    return found
