"""What a batch of the trending job adds to the windows: of listens that Spark counted, or of a few, counted here."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from streaming.transforms import ARTIST, TRACK
from streaming.trending_rules import TrendingRules

_KEY = ("window_start", "kind", "id")

_Window = tuple[int, str, bytes]
"""`_KEY`."""
_NONE = (None, None)
_WINDOWS = pa.schema(
    {
        "window_start": pa.int64(),
        "kind": pa.string(),
        "id": pa.binary(),
        "listens": pa.int64(),
        "listeners": pa.int64(),
        "artist_name": pa.string(),
        "track_name": pa.string(),
    }
)


@dataclass(frozen=True)
class Changes:
    """What a batch adds: a table with a row for each window and entity, listens by slide, the newest listen."""

    windows: pa.Table
    """window_start, kind, id (16 bytes), listens, listeners, artist_name, track_name.

    No listens: only a spelling came.
    """
    slides: dict[int, int]
    newest: int | None

    @classmethod
    def of(cls, rows: pa.Table, rules: TrendingRules) -> Changes:
        """Read the rows of `transforms.window_changes`; the smallest spelling, by code points, names a window."""
        kinds = pc.index_in(rows["kind"], _KINDS)
        counts = rows.set_column(rows.column_names.index("kind"), "kind", kinds).filter(pc.is_valid(kinds))
        spellings = rows.filter(pc.is_valid(rows["artist_id"]))
        # Numbers are united and sorted several times as fast as texts and bytes.
        ids, (counted, tracks, artists) = _numbered(counts["id"], spellings["id"], spellings["artist_id"])
        names, (artist_names, track_names) = _numbered(spellings["artist_name"], spellings["track_name"])
        starts = _last_slide(spellings, rules)
        ranges = [
            counts.select(_COUNTED).append_column("id", counted),
            _names_by_slide(TRACK, starts, tracks, artist_names, track_names, rules),
            _names_by_slide(ARTIST, starts, artists, artist_names, pa.nulls(len(starts), pa.int32()), rules),
        ]
        united = _each_window(pa.concat_tables(ranges, promote_options="default"), rules)
        united = united.group_by(list(_KEY)).aggregate(_UNITED).rename_columns([*_KEY, *dict(_UNITED)])
        # In the order of the primary key: neighbours there go to the same page.
        united = united.sort_by([(name, "ascending") for name in _KEY])
        values = {"kind": _KINDS, "id": ids, "artist_name": names, "track_name": names}
        columns = {name: united[name] for name in united.column_names}
        columns |= {name: pc.take(numbered, united[name]) for name, numbered in values.items()}
        told = rows.filter(pc.is_valid(rows["came"]))
        slides = pa.table({"slide": _last_slide(told, rules), "came": told["came"]})
        slides = slides.group_by("slide").aggregate([("came", "sum")])
        return cls(
            pa.table(columns),
            dict(zip(slides["slide"].to_pylist(), slides["came_sum"].to_pylist(), strict=True)),
            pc.max(told["newest"]).as_py(),
        )

    @classmethod
    def of_few(cls, listens: pa.Table, rules: TrendingRules) -> Changes:
        """Count the rows of `transforms.recent_listens` themselves: the same as `of` their `window_changes`.

        Of a few thousand, this takes less time than Spark takes to plan it.
        """
        heard = _heard(listens)
        counts = _counts(heard, rules)
        artist_names, track_names = _names(listens, rules)
        windows = sorted(counts.keys() | artist_names.keys())
        start, kind, entity_id = zip(*windows, strict=True) if windows else ((), (), ())
        columns = {
            "window_start": start,
            "kind": kind,
            "id": entity_id,
            "listens": [counts.get(window, _NONE)[0] for window in windows],
            "listeners": [counts.get(window, _NONE)[1] for window in windows],
            "artist_name": [artist_names.get(window) for window in windows],
            "track_name": [track_names.get(window) for window in windows],
        }
        # In the block of its last window, each listen stands once.
        told = [listen for listen, is_new in heard.items() if is_new and listen.last_start == listen.slide]
        return cls(
            pa.table(columns, schema=_WINDOWS),
            dict(Counter(listen.slide for listen in told)),
            max((listen.listened_at for listen in told), default=None),
        )


class _Listen(NamedTuple):
    """Of a user, with the windows that are counted from one block."""

    user_key: str
    listened_at: int
    track_id: bytes
    artist_id: bytes
    slide: int
    window_start: int
    last_start: int


def _heard(listens: pa.Table) -> dict[_Listen, bool]:
    """Tell of each listen whether it is new: one that came before as well is not."""
    heard: dict[_Listen, bool] = {}
    for *listen, is_new in _lines(listens, (*_Listen._fields, "is_new")):
        which = _Listen(*listen)
        heard[which] = is_new and heard.get(which, True)
    return heard


def _counts(heard: dict[_Listen, bool], rules: TrendingRules) -> dict[_Window, tuple[int, int]]:
    """Count the listens and the listeners that are new in each window, by the cap of a user."""
    by_user: defaultdict[tuple[str, _Window], list[int]] = defaultdict(lambda: [0, 0])
    for listen, is_new in heard.items():
        for start in range(listen.window_start, listen.last_start + 1, rules.slide_minutes * 60):
            for window in ((start, TRACK, listen.track_id), (start, ARTIST, listen.artist_id)):
                both = by_user[listen.user_key, window]
                both[0] += 1
                both[1] += is_new
    counts: defaultdict[_Window, tuple[int, int]] = defaultdict(lambda: (0, 0))
    cap = rules.listens_per_user
    for (_, window), (held, new) in by_user.items():
        if new:
            listens, listeners = counts[window]
            counts[window] = listens + min(held, cap) - min(held - new, cap), listeners + (held == new)
    return counts


def _names(listens: pa.Table, rules: TrendingRules) -> tuple[dict[_Window, str], dict[_Window, str]]:
    """Find the smallest spellings that came, of artists and of tracks, for all windows that hold their slide."""
    artist_names: dict[_Window, str] = {}
    track_names: dict[_Window, str] = {}
    slide_seconds = rules.slide_minutes * 60
    names = ("is_new", "slide", "last_start", "artist_id", "track_id", "artist_name", "track_name")
    for is_new, slide, last_start, artist_id, track_id, artist_name, track_name in _lines(listens, names):
        if not is_new or last_start != slide:
            continue
        for start in range(slide + slide_seconds - rules.window_minutes * 60, slide + 1, slide_seconds):
            track = (start, TRACK, track_id)
            for window in (track, (start, ARTIST, artist_id)):
                artist_names[window] = min(artist_names.get(window, artist_name), artist_name)
            track_names[track] = min(track_names.get(track, track_name), track_name)
    return artist_names, track_names


def _lines(table: pa.Table, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in names), strict=True)


_UNITED = [("listens", "sum"), ("listeners", "sum"), ("artist_name", "min"), ("track_name", "min")]
_KINDS = pa.array([ARTIST, TRACK])
_COUNTED = ["window_start", "windows", "kind", "listens", "listeners"]


def _numbered(*columns: pa.ChunkedArray) -> tuple[pa.Array, list[pa.Array]]:
    """Number the values of all columns in their order; return the values by number, and the columns in numbers."""
    coded = pa.chunked_array([chunk for column in columns for chunk in column.chunks], columns[0].type)
    coded = coded.combine_chunks().dictionary_encode()
    numbers = pc.subtract(pc.rank(coded.dictionary, tiebreaker="first"), 1).cast(pa.int32()).take(coded.indices)
    ends = list(itertools.accumulate(map(len, columns)))
    parts = [numbers.slice(end - len(column), len(column)) for end, column in zip(ends, columns, strict=True)]
    return coded.dictionary.take(pc.sort_indices(coded.dictionary)), parts


def _last_slide(ranges: pa.Table, rules: TrendingRules) -> pa.ChunkedArray:
    """Tell which slide begins with the last window of each range."""
    return pc.add(ranges["window_start"], pc.multiply(pc.subtract(ranges["windows"], 1), rules.slide_minutes * 60))


def _names_by_slide(
    kind: str, starts: pa.Array, ids: pa.Array, artist_names: pa.Array, track_names: pa.Array, rules: TrendingRules
) -> pa.Table:
    """Give the smallest spelling of a slide to the track or artist, in all windows that hold the slide."""
    windows = rules.window_minutes // rules.slide_minutes
    spelled = pa.table({"slide": starts, "id": ids, "artist_name": artist_names, "track_name": track_names})
    smallest = spelled.group_by(["slide", "id"]).aggregate([("artist_name", "min"), ("track_name", "min")])
    return pa.table(
        {
            "window_start": pc.subtract(smallest["slide"], (windows - 1) * rules.slide_minutes * 60),
            "windows": pa.repeat(pa.scalar(windows, pa.int64()), smallest.num_rows),
            "kind": pa.repeat(pc.index(_KINDS, kind).cast(pa.int32()), smallest.num_rows),
            "id": smallest["id"],
            "artist_name": smallest["artist_name_min"],
            "track_name": smallest["track_name_min"],
        }
    )


def _each_window(ranges: pa.Table, rules: TrendingRules) -> pa.Table:
    """Make a row a window of rows that hold for several."""
    each = []
    for number in range(rules.window_minutes // rules.slide_minutes):
        held = ranges.filter(pc.greater(ranges["windows"], number))
        start = pc.add(held["window_start"], number * rules.slide_minutes * 60)
        each.append(held.set_column(0, "window_start", start))
    return pa.concat_tables(each)
