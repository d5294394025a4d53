"""Last.fm scrobbles as CSV, in the two forms that exporters write.

* `uts,utc_time,artist,artist_mbid,album,album_mbid,track,track_mbid` (lastfm.ghan.nl/export)
* `artist,album,track,date`, mostly without that header (benjaminbenben.com/lastfm-to-csv; `23 Feb 2016 17:59`)

Start of play: `uts`, respectively `date`, as Last.fm has it: a scrobble's timestamp is "the time the track started
playing, in UNIX timestamp format" (last.fm/api/show/track.scrobble). Time zone: UTC for both; `date` is UTC to the
minute (github.com/benfoxall/lastfm-to-csv, issue 17). Neither says for how long it was played.
"""

from __future__ import annotations

import re

from extract.exports.caches import MBID_LISTS, MBIDS, NAMES
from extract.exports.format import Format, Head, csv_reader
from extract.exports.plays import Values, utc_seconds_of_words
from music_pulse.listens import RefusedListen

_LONG_HEADER = ["uts", "utc_time", "artist", "artist_mbid", "album", "album_mbid", "track", "track_mbid"]
_SHORT_HEADER = ["artist", "album", "track", "date"]
_DATE = re.compile(r"\d{1,2} [A-Z][a-z]{2} \d{4},? \d{2}:\d{2}\Z")


def to_play(row: list[str]) -> Values | None:
    """Read one row; a track that is still playing has no time."""
    if len(row) == len(_LONG_HEADER):
        return _long_play(row)
    if len(row) == len(_SHORT_HEADER):
        return _short_play(row)
    raise RefusedListen(f"not {len(_LONG_HEADER)} or {len(_SHORT_HEADER)} columns")


def _long_play(row: list[str]) -> Values | None:
    uts, _, artist, artist_mbid, album, album_mbid, track, track_mbid = row
    if not uts:
        return None
    return (
        int(uts) if uts.isdecimal() else uts,
        NAMES[artist],
        NAMES[track],
        NAMES[album or None],
        None,
        None,
        MBIDS[track_mbid],
        MBIDS[album_mbid],
        MBID_LISTS[artist_mbid],
        None,
        None,
    )


def _short_play(row: list[str]) -> Values | None:
    artist, album, track, date = row
    if not date:
        return None
    artist_name, track_name, album_name = NAMES[artist], NAMES[track], NAMES[album or None]
    return utc_seconds_of_words(date), artist_name, track_name, album_name, None, None, None, None, None, None, None


def _is_header(row: list[str]) -> bool:
    return [cell.strip().lower() for cell in row] in (_LONG_HEADER, _SHORT_HEADER)


def _recognises(head: Head) -> bool:
    return _is_header(head.row) or (len(head.row) == len(_SHORT_HEADER) and bool(_DATE.match(head.row[3])))


FORMAT = Format(
    name="lastfm_csv",
    source="lastfm",
    file_names=re.compile(r"(?:recenttracks|scrobbles|lastfm).*\.csv", re.IGNORECASE),
    recognises=_recognises,
    read=csv_reader(to_play, _is_header),
)
