"""The page in a browser: what it shows, that it keeps up, and that nobody is kept out of it."""

from __future__ import annotations

import re
import time
from datetime import date, timedelta
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from axe_playwright_python.sync_playwright import Axe
from helpers import execute, query
from liblistenbrainz import Listen, ListenBrainz
from playwright.sync_api import Locator, Page, expect

from music_pulse.serve import create_token

pytestmark = pytest.mark.integration

PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
HOSTILE = "/?user=%3Cb%3Emallory%3C%2Fb%3E&range=all"


def settled(page: Page) -> Page:
    """Wait until everything is loaded."""
    expect(page.locator("#streaks > *").first).to_be_visible()
    expect(page.locator(".loading, [aria-busy=true]")).to_have_count(0)
    return page


def tile(page: Page, label: str) -> Locator:
    return page.locator(f".tile:has(dt:text-is('{label}')) dd")


def asked(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlparse(page.url).query)


def test_it_shows_what_the_marts_say(site: Any, open_page: Any) -> None:
    page = settled(open_page("/?user=user_a&range=all"))
    [(listens, tracks)] = query(
        site.settings,
        "select sum(listens), count(distinct track_id) from marts.user_daily_tracks where user_id = 'user_a'",
    )
    expect(tile(page, "Listens")).to_have_text(f"{listens:,}")
    expect(tile(page, "Tracks")).to_have_text(f"{tracks:,}")
    [(name, most)] = query(
        site.settings,
        """
        select artist_name, sum(daily.listens) as most
        from marts.user_daily_tracks as daily inner join marts.artists using (artist_id)
        where user_id = 'user_a' group by artist_id, artist_name order by most desc, sum(minutes_listened) desc limit 1
        """,
    )
    first = page.locator("#top-artists li").first
    expect(first.locator(".name")).to_have_text(name)
    expect(first.locator(".much")).to_contain_text(f"{most:,}")
    for panel in ("over-time", "top-tracks", "top-albums", "heatmap", "clock", "sessions", "discoveries", "streaks"):
        expect(page.locator(f"#{panel} :not(.loading)").first).to_be_visible()
    assert page.locator("#clock rect").count() == 7 * 24
    page.locator("#over-time summary").click()
    rows = page.locator("#over-time tbody td").all_inner_texts()
    assert sum(int(text.split()[0].replace(",", "")) for text in rows) == listens


def test_what_is_picked_is_shown_and_stands_in_the_address(site: Any, open_page: Any) -> None:
    [(first, last)] = query(
        site.settings, "select min(day), max(day) from marts.user_daily_hours where user_id = 'user_b'"
    )
    page = settled(open_page())
    expect(page.locator("#user")).to_have_value("")
    page.locator("#user").select_option("user_b")
    page.get_by_role("radio", name="Day").check(force=True)
    settled(page)
    assert asked(page) == {"user": ["user_b"], "range": ["day"]}
    expect(page.locator("#period")).to_have_text(in_words(last))
    expect(page.locator("#later")).to_be_disabled()
    page.locator("#earlier").click()
    expect(page.locator("#period")).to_have_text(in_words(last - timedelta(days=1)))
    page.get_by_role("radio", name="Own").check(force=True)
    page.locator("#from").fill(str(first))
    page.locator("#to").fill(str(first + timedelta(days=40)))
    expect(page.locator("#period")).to_have_text(f"{in_words(first)} to {in_words(first + timedelta(days=40))}")
    settled(page)
    listens = tile(page, "Listens").inner_text()
    address = page.url
    page.get_by_role("radio", name="Minutes").check(force=True)
    expect(page.locator("#over-time figcaption")).to_contain_text(re.compile(r"\d (min|h)"))
    page.go_back()
    expect(page).to_have_url(address)
    again = settled(open_page(address.removeprefix(site.address)))
    expect(tile(again, "Listens")).to_have_text(listens)
    expect(again.locator("#user")).to_have_value("user_b")


def in_words(day: date) -> str:
    return f"{day:%b} {day.day}, {day.year}"


def test_what_can_not_be_shown_is_said(open_page: Any) -> None:
    page = open_page("/?user=nobody", expects_failures=True)
    expect(page.locator("#nothing")).to_contain_text("there are no listens of nobody")
    expect(page.locator("#banner")).to_be_hidden()
    page.locator("#user").select_option("")
    expect(page.locator("#nothing")).to_be_hidden()
    settled(page)


def test_the_keyboard_is_enough(open_page: Any) -> None:
    page = settled(open_page("/?user=user_a"))
    page.locator("body").press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.name") == "range":
            break
    page.keyboard.press("ArrowRight")
    settled(page)
    assert asked(page) == {"user": ["user_a"], "range": ["year"]}


def test_a_window_appears_by_itself(site: Any, open_page: Any) -> None:
    site.forget_windows()
    page = settled(open_page())
    expect(page.locator("#trending-track")).to_contain_text("Nothing is trending yet")
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    site.window(("Rising", "Somebody", 9), ("Steady", "Somebody Else", 4))
    first = page.locator("#trending-track tbody tr").first
    # Sooner than the server looks by itself.
    expect(first).to_contain_text("Rising", timeout=4_000)
    expect(first).to_contain_text("Somebody")
    expect(page.locator("#trending-artist tbody tr")).to_have_count(2)
    cells = page.locator("#trending-track tbody tr").nth(1).locator("td.number").all_inner_texts()
    assert cells == ["5", "4", "4.00"]


def test_a_listen_of_a_real_client_appears(site: Any, open_page: Any) -> None:
    site.forget_windows()
    page = settled(open_page())
    client = ListenBrainz(site.address)
    client.set_auth_token(create_token(site.settings, "scrobbler"))
    client.submit_playing_now(Listen(track_name="Being Heard", artist_name="A Band"))
    client.submit_single_listen(Listen(track_name="Was Heard", artist_name="A Band", listened_at=int(time.time())))
    [stored] = query(
        site.settings, "select track_name, artist_name from raw.stream_listens where user_name = 'scrobbler'"
    )
    site.window((*stored, 1))  # as the trending job counts it
    expect(page.locator("#trending-track tbody tr").first).to_contain_text("Was Heard", timeout=4_000)
    expect(page.locator("#playing")).to_contain_text("scrobbler hears Being Heard by A Band")


def test_a_build_shows_by_itself(site: Any, open_page: Any) -> None:
    page = settled(open_page("/?user=user_c&range=all"))
    before = int(tile(page, "Listens").inner_text().replace(",", ""))
    add = "update marts.user_daily_tracks set listens = listens + %s where user_id = 'user_c'"
    built = "insert into intermediate.int_built_changes (model_name, change_id) values ('user_daily_tracks', now())"
    [(rows,)] = query(site.settings, "select count(*) from marts.user_daily_tracks where user_id = 'user_c'")
    for more in (1, -1):  # and back again
        execute(site.settings, add, [more])
        execute(site.settings, built)
        before += more * rows
        expect(tile(page, "Listens")).to_have_text(f"{before:,}", timeout=15_000)


def test_a_database_that_goes_and_comes_back(site: Any, open_page: Any) -> None:
    page = settled(open_page("/?user=user_a&range=all", expects_failures=True))
    listens = tile(page, "Listens").inner_text()
    site.cut_off(True)
    try:
        expect(page.locator("#banner")).to_be_visible()
        expect(page.locator("#connection")).to_have_attribute("data-state", "down")
        expect(tile(page, "Listens")).to_have_text(listens)  # what was read stays
        fresh = open_page("/", expects_failures=True)
        expect(fresh.locator("#banner")).to_contain_text("goes on trying")
        expect(fresh.locator("#trending-track .loading")).to_be_visible()
    finally:
        site.cut_off(False)
    for each in (page, fresh):
        expect(each.locator("#banner")).to_be_hidden()
        expect(each.locator("#connection")).to_have_attribute("data-state", "live")
    settled(fresh)
    expect(tile(fresh, "Listens")).not_to_have_text("0")


def test_hostile_names_are_text(site: Any, open_page: Any) -> None:
    site.forget_windows()
    site.window(("<script>document.title='broken'</script>", "\u202eevil <i>", 3))
    page = settled(open_page(HOSTILE))
    assert page.title() == "Music Pulse"
    expect(page.locator("#user")).to_have_value("<b>mallory</b>")
    expect(page.locator("#top-tracks .name", has_text="gnp.exe")).to_have_text("evil⟨U+202E⟩gnp.exe ␁␛[31m")
    expect(page.locator("#top-tracks bdi[dir=auto]", has_text="أغنية")).to_have_count(1)
    expect(page.locator("#top-artists")).to_contain_text("<img src=x onerror=document.title='broken'>")
    expect(page.locator("#top-albums")).to_contain_text("</td><script>document.title='broken'</script>")
    expect(page.locator("#trending-track .name")).to_have_text("<script>document.title='broken'</script>")
    expect(page.locator("#trending-track .by")).to_have_text("⟨U+202E⟩evil <i>")
    assert page.locator("main script, main img, main i:not(.equaliser i), main b").count() == 0
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_nobody_is_kept_out(site: Any, open_page: Any, scheme: str, size: str) -> None:
    site.forget_windows()
    site.window(("Rising", "Somebody", 9), ("Steady", "Somebody Else", 4))
    options: dict[str, Any] = PHONE if size == "phone" else {}
    page = settled(open_page("/?user=user_a&range=all", color_scheme=scheme, reduced_motion="reduce", **options))
    expect(page.locator("#trending-track tbody tr")).to_have_count(2)
    page.locator("#over-time summary").click()
    found = Axe().run(page).response["violations"]
    assert [(each["id"], each["impact"], each["nodes"][0]["html"]) for each in found] == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_the_theme_is_chosen_and_kept(open_page: Any) -> None:
    page = settled(open_page(color_scheme="light"))
    light = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    button = page.locator("#theme")
    button.click()
    button.click()
    expect(button).to_have_attribute("aria-label", "Theme: dark")
    page.reload()
    settled(page)
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") != light
