"""Identity: keys and ids, against values that were hashed apart from the code."""

from __future__ import annotations

import unicodedata
from hashlib import md5
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from music_pulse import identity
from music_pulse.identity import Identifier, artist_id, key, listen_id, track_id

NAMES = st.text(st.characters(codec="utf-8"), max_size=20)
UGLY = st.sampled_from(
    ["İ", "I", "ı", "Σ", "ς", "σ", "ẞ", "ß", "SS", "K", "Å", "e\u0301", "\u0323", " ", "\u3000", "ǅ"]
)
SPELLINGS = NAMES | st.lists(UGLY, max_size=6).map("".join)
SECONDS = st.integers(min_value=0, max_value=2**33)


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("Björk", "björk"),
        ("Bjo\u0308rk", "björk"),
        ("İstanbul", "i\u0307stanbul"),
        ("I", "i"),
        ("ı", "ı"),
        ("ΟΔΟΣ", "οδος"),
        ("ΟΔΟΣ.", "οδος."),
        ("Σ", "σ"),
        ("ΣΑ", "σα"),
        ("STRAẞE", "straße"),
        ("STRASSE", "strasse"),
        ("\u00a0Low\u3000", "low"),
        ("\u2003\u0085\tLow\r\n", "low"),
        ("\x1cLow\x1f", "low"),
        ("\u200bLow\ufeff", "\u200blow\ufeff"),  # zero-width, but no white space
        ("A  B", "a  b"),
        ("Ｆｕｌｌ", "ｆｕｌｌ"),  # NFC, not NFKC
        ("ﬁne", "ﬁne"),
        ("e\u0307\u0323", "ẹ\u0307"),
        ("\u212b", "å"),
        ("\u212a", "k"),
        ("Ǆ", "ǆ"),
        ("ǅ", "ǆ"),
        ("\u0301", "\u0301"),
        ("AC/DC!", "ac/dc!"),
        ("", ""),
        (" \u3000 ", ""),
    ],
)
def test_a_key_folds_form_case_and_outer_white_space_and_nothing_else(name: str, folded: str) -> None:
    assert key(name) == folded


@given(SPELLINGS)
def test_a_key_does_not_depend_on_unicode_form_or_padding(name: str) -> None:
    assert key(f" \u3000{unicodedata.normalize('NFD', name)}\u00a0") == key(name)


@given(SPELLINGS)
@example("\u1e9e")
@example("İ")
def test_a_key_has_no_outer_white_space(name: str) -> None:
    assert key(name) == key(name).strip()


@given(NAMES.filter(str.isascii))
def test_the_key_of_an_ascii_key_is_itself(name: str) -> None:
    assert key(key(name)) == key(name)


@pytest.mark.parametrize("name", ["H\u0331", "T\u0308", "J\u030c"])
def test_a_key_is_not_always_its_own_key(name: str) -> None:
    """No capital of these is composed, the small letter is: so nothing may take the key of a key."""
    assert key(name) == name.lower()
    assert key(key(name)) != key(name)


@pytest.mark.parametrize(
    ("found", "hashed"),
    [
        (artist_id("Björk"), b"bj\xc3\xb6rk"),
        (artist_id("  BJO\u0308RK\u3000"), b"bj\xc3\xb6rk"),
        (artist_id("İ"), b"i\xcc\x87"),
        (track_id("Björk", "Jóga"), b"bj\xc3\xb6rk\x1fj\xc3\xb3ga"),
        (track_id("ΟΔΟΣ", "ẞ"), "οδος\x1fß".encode()),
        (listen_id("Rob", 1_700_000_000, "Björk", "Jóga"), b"rob\x1f1700000000\x1fbj\xc3\xb6rk\x1fj\xc3\xb3ga"),
    ],
)
def test_an_id_is_the_md5_of_its_keys(found: UUID, hashed: bytes) -> None:
    assert found.hex == md5(hashed).hexdigest()


def test_ids_stay_what_they_were() -> None:
    assert str(artist_id("Björk")) == "39e89a9c-a4ab-8d62-14b2-40446aeb5cd1"
    assert str(track_id("Björk", "Jóga")) == "2ad2e178-d4ef-7060-d17b-d827a670c07f"
    assert str(listen_id("rob", 1_700_000_000, "Björk", "Jóga")) == "de321ce3-49a9-f3d2-2eb8-92711e08f734"


@given(st.lists(st.tuples(SPELLINGS, SECONDS, SPELLINGS, SPELLINGS), max_size=8))
def test_the_identifier_gives_what_the_functions_give(listens: list[tuple[str, int, str, str]]) -> None:
    users, seconds, artists, tracks = zip(*listens, strict=True) if listens else ((), (), (), ())
    ids = Identifier().identify(users, seconds, artists, tracks)
    assert ids.listen_ids == [listen_id(*listen).bytes for listen in listens]
    assert ids.artist_ids == [artist_id(artist).bytes for artist in artists]
    assert ids.track_ids == [track_id(*pair).bytes for pair in zip(artists, tracks, strict=True)]
    assert ids.artist_keys == [key(artist) for artist in artists]
    assert ids.track_keys == [key(track) for track in tracks]


def test_full_caches_forget_and_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_CACHE_SIZE", 2)
    names = [f"name {number % 5}" for number in range(20)]
    ids = Identifier().identify(names, range(20), names, names)
    assert ids.listen_ids == [listen_id(name, second, name, name).bytes for second, name in enumerate(names)]


def test_columns_of_different_lengths_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="zip"):
        Identifier().identify(["ann"], [1, 2], ["a", "b"], ["c", "d"])
