"""The page "Dag versions" keeps its place and says why it cannot refresh, on any screen and behind a reverse proxy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from dagbump import database as dagbump_database
from dagbump.installation import installer
from playwright.sync_api import Browser, Locator, Page, Request, expect
from sqlalchemy.engine import URL
from support.browser import Visitor, visitor
from support.fleet import Fleet
from support.page import IN_MENU, SENTENCE, Enter, Served, button, fill, open_page, row_of
from support.releases.web import Web, serving
from support.server import Server, libpq
from support.waits import until

pytestmark = pytest.mark.ui

EVERY_MS = 10_000
needs_menu = pytest.mark.skipif(not IN_MENU, reason="Airflow 3.0 shows no page of a plugin in a frame")


@pytest.fixture
def fleet(emptied: Fleet) -> Fleet:
    fill(emptied)
    return emptied


@pytest.fixture
def opened(fleet: Fleet, web: Web, enter: Enter) -> Page:
    """The page in a browser whose clock the test turns on."""
    somebody = enter("admin")
    somebody.page.clock.install()
    page = open_page(somebody, web).page
    expect(page.locator("#answer")).to_have_text(SENTENCE)
    fleet.copy_latest_version("fine")  # which a refresh shows
    return page


def tick(page: Page) -> None:
    page.clock.run_for(EVERY_MS)


def requests_of(page: Page) -> list[Request]:
    """Return a list to which each request of a page is added."""
    asked: list[Request] = []

    def note(request: Request) -> None:
        asked.append(request)

    page.on("request", note)
    return asked


def expect_not_refreshed(page: Page, why: str | re.Pattern[str]) -> None:
    tick(page)
    expect(page.locator("#problem")).to_contain_text(why)
    expect(page.locator("footer")).to_contain_text(re.compile(r"Not refreshed since \d\d:\d\d:\d\d \d+ \w+ ago"))
    expect(page.locator("#answer")).to_have_text(SENTENCE)


def expect_refreshed(page: Page, answer: str = "15 of 16") -> None:
    tick(page)
    expect(page.locator("#answer")).to_contain_text(answer)
    expect(page.locator("#problem")).to_be_empty()
    expect(page.locator("#since")).to_have_text("Refreshed")


# ---- When things go wrong.


def test_an_answer_that_takes_long_is_shown_and_nothing_is_asked_twice(fleet: Fleet, opened: Page, url: URL) -> None:
    asked = requests_of(opened)
    with psycopg.connect(libpq(url)) as other:
        other.execute("LOCK TABLE dagbump.history")
        tick(opened)
        until(lambda: waits_for_lock(fleet), lambda: "the page waits for the lock")
        for _ in range(3):
            expect_not_refreshed(opened, "The API server has not answered yet.")
    expect(opened.locator("#answer")).to_contain_text("15 of 16")
    expect(opened.locator("#problem")).to_be_empty()
    assert len(asked) == 1


@pytest.fixture
def url(served: Served) -> URL:
    return served[1]


def waits_for_lock(fleet: Fleet) -> bool:
    query = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'dagbump page' AND wait_event_type = 'Lock'"
    return fleet.execute(query).fetchone() is not None


def test_an_error_is_not_silence(fleet: Fleet, opened: Page) -> None:
    fleet.execute("ALTER TABLE {schema}.dag_run RENAME TO dag_run_away")
    try:
        expect_not_refreshed(opened, "This went wrong. The API server's log says more.")
    finally:
        fleet.execute("ALTER TABLE {schema}.dag_run_away RENAME TO dag_run")
    opened.context.set_offline(True)
    expect_not_refreshed(opened, "The API server does not answer.")
    opened.context.set_offline(False)
    with answering(opened, status=502, body="Bad gateway"):
        expect_not_refreshed(opened, "The server answers 502, but not with this page.")
    with answering(opened, status=302, headers={"Location": "/login"}):
        expect_not_refreshed(opened, "Something in front of Airflow asks for a login.")
    expect_refreshed(opened)


@contextmanager
def answering(page: Page, **answer: Any) -> Iterator[None]:
    """Answer the requests of the page as a proxy in front of the API server does."""
    page.route("**/dagbump/**", lambda route: route.fulfill(**answer))
    yield
    page.unroute("**/dagbump/**")


def test_a_downgrade_while_the_page_is_open(fleet: Fleet, opened: Page, url: URL) -> None:
    fleet.execute("DROP SCHEMA dagbump CASCADE")
    expect_not_refreshed(opened, "dagbump upgrade")
    opened.locator("[data-dialog]").click()
    opened.get_by_role("button", name="Move them").click()
    expect(opened.get_by_role("dialog")).to_contain_text("dagbump upgrade")
    expect(opened.get_by_role("dialog")).to_contain_text("Nothing was changed.")
    opened.get_by_role("button", name="Close").click()
    installer.upgrade(dagbump_database.create_engine(libpq(url)))
    expect_refreshed(opened)


@pytest.mark.usefixtures("fleet")
def test_a_page_that_was_an_error_becomes_the_page(opened: Page, url: URL, fleet: Fleet) -> None:
    fleet.execute("DROP SCHEMA dagbump CASCADE")
    opened.reload()
    expect(opened.locator("#live")).to_contain_text("dagbump upgrade")
    installer.upgrade(dagbump_database.create_engine(libpq(url)))
    expect_refreshed(opened)
    expect(opened.get_by_role("search")).to_be_visible()


def test_after_a_login_in_another_tab_it_goes_on(opened: Page, web: Web) -> None:
    log_out(opened)
    expect_not_refreshed(opened, "You are not logged in to Airflow. Log in")
    other = Visitor(opened.context, opened.context.new_page())
    other.log_in(web.url, "admin")
    expect_refreshed(opened)


def test_without_a_login_it_waits_for_one_in_another_tab(opened: Page, web: Web) -> None:
    log_out(opened)
    opened.reload()
    expect(opened.locator("#answer")).to_have_text("You are not logged in to Airflow.")
    other = Visitor(opened.context, opened.context.new_page())
    other.log_in(web.url, "admin")
    expect_refreshed(opened)


def log_out(page: Page) -> None:
    page.context.clear_cookies()
    page.evaluate("localStorage.removeItem('token')")  # of Airflow 3.0


@pytest.mark.usefixtures("fleet")
def test_the_login_leads_back(web: Web, enter: Enter) -> None:
    place = "/?search=etl&verdict=bump"
    somebody = open_page(enter("admin"), web, place)
    log_out(somebody.page)
    somebody.page.reload()
    somebody.page.get_by_role("link", name="Log in").click()
    fill_in_login(somebody.page)
    expect(somebody.page.locator("tbody tr[id]")).to_have_count(3)
    assert somebody.page.url == f"{web.url}/dagbump{place}"


def fill_in_login(page: Page) -> None:
    page.locator("input[name=username]").fill("admin")
    page.locator("input[name=password]").fill("admin")
    page.locator("button[type=submit]").click()


@needs_menu
@pytest.mark.usefixtures("fleet")
def test_the_login_leads_back_into_the_frame(web: Web, enter: Enter) -> None:
    somebody = enter("admin")
    somebody.page.clock.install()
    in_menu(somebody, web)
    search_in(somebody, "etl")
    log_out(somebody.page)
    tick(somebody.page)
    somebody.in_frame.get_by_role("link", name="Log in").click()
    fill_in_login(somebody.page)
    expect_found(somebody)
    assert place_of(somebody, web) == "?search=etl"


@pytest.mark.usefixtures("fleet")
def test_a_login_that_another_server_has_signed(opened: Page) -> None:
    log_out(opened)
    forged = "eyJhbGciOiJIUzUxMiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhZG1pbiJ9.c2lnbmVkIGJ5IGFub3RoZXI"
    opened.context.add_cookies([{"name": "_token", "value": forged, "url": opened.url}])
    expect_not_refreshed(opened, "This API server does not accept your login.")
    expect(opened.locator("#problem")).to_contain_text("[api_auth] jwt_secret")
    expect_not_refreshed(opened, "[api_auth] jwt_secret")  # Airflow has deleted the login by now


@pytest.mark.usefixtures("fleet")
def test_a_page_that_another_server_has_signed(web: Web, enter: Enter) -> None:
    page = open_page(enter("admin"), web).page
    page.locator("dialog").evaluate("dialog => { dialog.dataset.token = dialog.dataset.token.slice(0, -4) + 'AAAA' }")
    page.locator("[data-dialog]").click()
    page.get_by_role("button", name="Move them").click()
    expect(page.get_by_role("dialog")).to_contain_text("different values of [api] secret_key")


# ---- The place.


def in_menu(somebody: Visitor, web: Web, rest: str = "") -> None:
    somebody.page.goto(f"{web.url}/plugin/dag-versions{rest}")
    somebody.in_frame.locator("#answer, .title").first.wait_for()


def search_in(somebody: Visitor, text: str) -> None:
    somebody.in_frame.get_by_role("searchbox").fill(text)
    somebody.in_frame.get_by_role("button", name="Search").click()
    expect_found(somebody)


def expect_found(somebody: Visitor) -> None:
    expect(somebody.in_frame.locator("tbody tr[id]")).to_have_count(3)


def place_of(somebody: Visitor, web: Web) -> str:
    """Return the part of Airflow's address that names the place in the page."""
    root = re.escape(urlsplit(web.url).path)
    address = re.compile(rf"{re.escape(web.url)}/plugin/dag-versions{root}/dagbump/(.*)")
    expect(somebody.page).to_have_url(address)
    found = address.fullmatch(somebody.page.url)
    assert found
    return found[1]


@needs_menu
@pytest.mark.usefixtures("fleet")
def test_airflows_address_leads_back(web: Web, enter: Enter) -> None:
    somebody = enter("admin")
    in_menu(somebody, web)
    assert place_of(somebody, web) == ""
    search_in(somebody, "etl")
    assert place_of(somebody, web) == "?search=etl"
    somebody.page.reload()
    expect_found(somebody)
    copied = somebody.page.url
    somebody.in_frame.get_by_role("link", name="History").click()
    nothing = "Nothing that matches has been moved in a Dag that you may see."
    expect(somebody.in_frame.locator(".empty")).to_contain_text(nothing)
    assert place_of(somebody, web) == "history?search=etl"
    somebody.page.go_back()
    expect_found(somebody)
    assert place_of(somebody, web) == "?search=etl"
    somebody.in_frame.get_by_role("link", name="etl.orders").first.click()
    somebody.page.wait_for_url(f"{web.url}/dags/etl.orders**")
    somebody.page.go_back()
    expect_found(somebody)

    colleague = enter("viewer")
    colleague.page.goto(copied)
    expect_found(colleague)
    assert place_of(colleague, web) == "?search=etl"


@needs_menu
@pytest.mark.usefixtures("fleet")
def test_airflows_address_leads_to_no_other_host(web: Web, enter: Enter) -> None:
    somebody = enter("admin")
    in_menu(somebody, web, "//example.org/dagbump/")
    expect(somebody.in_frame.locator("#answer")).to_have_text(SENTENCE)
    assert place_of(somebody, web) == ""


@pytest.mark.usefixtures("fleet")
def test_refresh_by_itself_stays_as_it_was_left(opened: Page) -> None:
    opened.get_by_label("Refresh by itself").uncheck()
    opened.get_by_role("link", name="History").click()
    expect(opened.locator(".empty")).to_be_visible()
    expect(opened.get_by_label("Refresh by itself")).not_to_be_checked()
    opened.go_back()
    expect(opened.get_by_label("Refresh by itself")).not_to_be_checked()
    asked = requests_of(opened)
    tick(opened)
    assert asked == []


@pytest.mark.usefixtures("fleet")
def test_an_address_says_only_what_is_asked(web: Web, enter: Enter) -> None:
    page = open_page(enter("admin"), web, "/?search=etl").page
    page.get_by_role("searchbox").fill("")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/dagbump/\??$"))


# ---- Its address.


@pytest.mark.usefixtures("emptied")
def test_behind_a_reverse_proxy_in_a_folder_with_two_workers(
    postgres: Server, dagbump_template: str, tmp_path: Path, browser: Browser
) -> None:
    options: dict[str, Any] = {"path": "/team/airflow", "proxied": True, "workers": 2}
    with (
        serving(postgres, dagbump_template, tmp_path, **options) as (web, url),
        psycopg.connect(libpq(url), autocommit=True) as connection,
        visitor(browser) as somebody,
    ):
        fleet = Fleet(connection)
        fill(fleet)
        somebody.log_in(web.url, "admin")
        somebody.page.goto(f"{web.url}/dagbump?search=etl")
        expect(somebody.page.locator("tbody tr[id]")).to_have_count(3)
        assert somebody.page.url == f"{web.url}/dagbump/?search=etl"
        if IN_MENU:
            in_menu(somebody, web)
            search_in(somebody, "etl")
            assert place_of(somebody, web) == "?search=etl"
            somebody.page.reload()
            expect_found(somebody)
        for dag in ("etl", "reports", "script"):  # whichever worker answers, it knows the token
            open_page(somebody, web, f"/?search={dag}")
            button(somebody).click()
            somebody.page.get_by_role("button", name="Move them").click()
            expect(somebody.page.get_by_role("dialog").locator("h2")).to_contain_text("Moved")
        log_out(somebody.page)
        somebody.page.reload()
        somebody.page.get_by_role("link", name="Log in").click()
        fill_in_login(somebody.page)
        expect(somebody.page).to_have_url(f"{web.url}/dagbump/?search=script")


@pytest.mark.usefixtures("fleet")
def test_without_the_slash(web: Web, enter: Enter) -> None:
    somebody = enter("admin")
    answer = somebody.context.request.get(f"{web.url}/dagbump?search=etl", max_redirects=0)
    assert (answer.status, answer.headers["location"]) == (307, "dagbump/?search=etl")
    assert somebody.context.request.get(f"{web.url}/dagbumpy", max_redirects=0).status == 200  # Airflow's own page


# ---- What it looks like.


WIDTHS = (390, 1280, 1600)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_on_every_screen(fleet: Fleet, web: Web, enter: Enter, width: int, dark: bool) -> None:
    somebody = enter("admin", width=width, dark=dark)
    page = somebody.page
    problems: list[str] = []
    for path in ("/", "/versions", "/history", "/?search=nothing", "/?page=x"):
        open_page(somebody, web, path)
        assert overflow(page) == 0, path
        problems += somebody.accessibility_problems()
    open_page(somebody, web)
    region = page.get_by_role("region", name="Runs", exact=True)
    for scrolled in (0, 10_000):
        region.evaluate("(region, left) => { region.scrollLeft = left }", scrolled)
        for sentence in page.locator(".verdict .next, .verdict .meaning").all():
            assert is_within(sentence, width)
    button(somebody).click()
    dialog = page.get_by_role("dialog")
    for shown in (dialog, dialog.locator("h2"), dialog.get_by_role("button", name="Move them")):
        assert is_within(shown, width)
    problems += somebody.accessibility_problems()
    dialog.get_by_role("button", name="Move them").click()
    expect(dialog.locator("h2")).to_contain_text("Moved 9 task instances of 5 runs.")
    assert is_within(dialog.get_by_role("button", name="Close"), width)
    problems += somebody.accessibility_problems()
    fleet.execute("DROP SCHEMA dagbump CASCADE")
    open_page(somebody, web)
    assert overflow(page) == 0
    problems += somebody.accessibility_problems()
    assert problems == []


def test_names_in_the_history_are_not_broken_after_each_letter(fleet: Fleet, web: Web, enter: Enter) -> None:
    fleet.execute("SELECT dagbump.bump(dag_ids => %s, caller => 'airflow scheduler')", ["etl.orders"])
    page = open_page(enter("admin", width=390), web, "/history").page
    box = page.locator("tbody tr").first.bounding_box()
    assert box
    assert box["height"] < 120


def overflow(page: Page) -> int:
    pixels: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return pixels


def is_within(shown: Locator, width: int) -> bool:
    box = shown.bounding_box()
    assert box
    height = 860 if shown.page.locator("dialog[open]").count() else float("inf")
    return box["x"] >= 0 and box["x"] + box["width"] <= width and box["y"] + box["height"] <= height


def test_times_are_those_of_the_user(fleet: Fleet, web: Web, enter: Enter) -> None:
    fleet.execute("SELECT dagbump.bump(dag_ids => %s)", ["etl.orders"])
    fleet.execute("UPDATE dagbump.history SET bumped_at = '2026-07-01 12:00:00+00'")
    somebody = enter("admin")
    somebody.page.evaluate("""localStorage.setItem("timezone", '"Asia/Kolkata"')""")
    page = open_page(somebody, web, "/history").page
    time = page.locator("td time").first
    expect(time).to_have_text("2026-07-01 17:30:00")
    expect(time).to_have_attribute("title", re.compile(r"^2026-07-01T12:00:00\+00:00$"))
    expect(page.locator("td .ago").first).to_have_text(re.compile(r"^\d+ days ago$"))


def test_the_keyboard_keeps_the_place(opened: Page) -> None:
    row = row_of(opened, "reports.daily")
    row.locator("a.more").focus()
    opened.keyboard.press("Enter")
    tasks = opened.locator(".tasks-of-run")
    expect(tasks).to_contain_text("load")
    row.locator("a.more").focus()
    expect_refreshed(opened)
    expect(row.locator("a.more")).to_be_focused()
    expect(tasks).to_contain_text("load")
    opened.locator("[data-dialog]").focus()
    opened.keyboard.press("Enter")
    opened.keyboard.press("Tab")
    opened.keyboard.press("Escape")
    expect(opened.locator("[data-dialog]")).to_be_focused()
