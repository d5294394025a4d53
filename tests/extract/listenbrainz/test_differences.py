from __future__ import annotations

from extract.listenbrainz.comparison import Verified
from extract.listenbrainz.differences import Change, Group, Known, explain

DAY = 86_400
VERIFIED = [Verified(1, 100 * DAY, 200 * DAY), Verified(100 * DAY, 201 * DAY, 199 * DAY)]
CHANGES = [
    Change((0, 10 * DAY), shown=899, added=0, lost=1),
    Change((20 * DAY, 30 * DAY), shown=903, added=3, lost=0),
]


def explained(difference: int, known: Known, compared: int = 0) -> str:
    return explain(difference, known, VERIFIED, compared=compared)


def test_deletions_that_the_count_still_has_are_named_by_window() -> None:
    assert explained(1, Known(CHANGES)) == (
        "1 in the window 1970-01-01 00:00:00 to 1970-01-11 00:00:00 UTC (899 shown and held now, 900 held before): "
        "deleted there, and deletions leave ListenBrainz' count by the hour"
    )


def test_what_an_earlier_run_found_deleted_is_named_by_its_time() -> None:
    known = Known(CHANGES, deleted=Group(5, (DAY, 2 * DAY)))
    assert explained(3, known).endswith(
        "; 2 from 1970-01-02 00:00:00 to 1970-01-03 00:00:00 UTC: deleted there, and deletions leave ListenBrainz' "
        "count by the hour"
    )


def test_what_the_cached_count_does_not_know_yet_is_named_by_window() -> None:
    known = Known(CHANGES, recent=Group(2, (90 * DAY, 90 * DAY + 60)), timeless=1)
    why = "new there, and ListenBrainz' count is cached for up to 5 minutes"
    assert explained(-6, known).split("; ") == [
        f"2 from 1970-04-01 00:00:00 to 1970-04-01 00:01:00 UTC: {why}",
        "3 in the window 1970-01-21 00:00:00 to 1970-01-31 00:00:00 UTC (903 shown and held now, 900 held before): "
        + why,
        "1 in no window: refused records without a time, which no page shows",
    ]


def test_what_no_window_accounts_for_is_the_counts_own() -> None:
    assert explained(4, Known(CHANGES), compared=7).split("; ")[1] == (
        "3 in no window: every window was compared just now (7 from 1970-01-01 00:00:01 to 1970-07-21 00:00:00 UTC) "
        "and holds what ListenBrainz shows (pages are cached for up to an hour): its count is off, or old"
    )


def test_what_was_left_before_says_since_when_every_window_was_compared() -> None:
    assert explained(-3, Known()) == (
        "3 in no window: as before, when every window from 1970-01-01 00:00:01 to 1970-07-21 00:00:00 UTC had been "
        "compared (since 1970-07-19 00:00:00), ListenBrainz' count is off"
    )


def test_of_many_windows_the_first_are_named() -> None:
    changes = [Change((place * DAY, place * DAY + DAY), shown=9, added=1, lost=1) for place in range(8)]
    assert explained(8, Known(changes)).count("in the window") == 5
    assert explained(-8, Known(changes)).endswith("; and 3 windows more")
