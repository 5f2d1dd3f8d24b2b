"""The page "Dag versions" in Airflow's UI: a real API server of the release, and a real browser.

The release is `environments.release`. Airflow's auth managers decide what users may do: the simple one and, if there
are pins for it, FAB's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from support.browser import PATIENCE_MS, Visitor, visitor
from support.fleet import Fleet
from support.page import (
    HOSTILE,
    IN_MENU,
    RUN_OF_250,
    SENTENCE,
    Enter,
    Served,
    button,
    emptied_fleet,
    fill,
    open_page,
    picture,
    routes_of,
    row_of,
    versions,
)
from support.releases import environments
from support.releases.web import FAB_USERS, Web, serving
from support.server import Server, libpq

pytestmark = pytest.mark.ui

RELEASE = environments.release()
HAS_FAB = (environments.PINS / f"airflow-{RELEASE}-fab.in").exists()


@pytest.fixture(scope="module")
def served_fab(postgres: Server, dagbump_template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(postgres, dagbump_template, tmp_path_factory.mktemp("fab"), fab=True) as served:
        yield served


@pytest.fixture
def fleet(emptied: Fleet) -> Fleet:
    fill(emptied)
    return emptied


# ---- What is seen.


@pytest.mark.usefixtures("fleet")
def test_the_answer_the_reasons_and_what_to_do(web: Web, enter: Enter) -> None:
    page = open_page(enter("admin"), web).page
    expect(page.locator("#answer")).to_have_text(SENTENCE)
    expect(page.locator(".plugin")).to_contain_text("The scheduler's plugin is on.")
    assert page.locator(".reasons .badge").all_text_contents() == [
        "Lacks tasks",
        "No version",
        "Behind",
        "Waits for scheduler",
        "Dag is paused",
    ]
    versionless = page.locator(".reasons li", has=page.locator(".badge", has_text="No version"))
    expect(versionless.locator(".next")).to_contain_text("dagbump repair")
    expect(row_of(page, "reports.daily")).to_contain_text("1 missing")
    expect(row_of(page, "2026-11-24T04").locator(".versions")).to_have_text(re.compile(r"none, 3\s+→\s+5"))
    expect(row_of(page, "ml.train")).to_contain_text("1 gone")


def test_an_empty_database_and_one_in_which_all_is_well(emptied: Fleet, web: Web, enter: Enter) -> None:
    somebody = open_page(enter("admin"), web)
    page = somebody.page
    expect(page.locator("#answer")).to_have_text("No Dag run is running.")
    picture(somebody, "empty-light")
    picture(open_page(enter("admin", dark=True), web), "empty-dark")
    open_page(somebody, web, "/versions")
    expect(page.locator(".empty")).to_contain_text("No Dag that you may see has a version yet")
    open_page(somebody, web, "/history")
    expect(page.locator(".empty")).to_contain_text("Nothing has been moved in a Dag that you may see.")
    (only,) = versions(emptied, "d", 1)
    for _ in range(20):
        emptied.tis(emptied.run("d"), only, ["running", "scheduled", None, *["success"] * 3])
    open_page(somebody, web)
    expect(page.locator("#answer")).to_have_text(
        "All 60 unfinished task instances of 20 running runs are on the latest version of their Dag."
    )
    picture(somebody, "all-well-light")
    picture(open_page(enter("admin", dark=True), web), "all-well-dark")


@pytest.mark.usefixtures("fleet")
def test_search_and_filter(web: Web, enter: Enter) -> None:
    page = open_page(enter("admin"), web).page
    page.get_by_label("Search", exact=True).fill("ETL")
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr[id]")).to_have_count(3)
    assert page.url.endswith("?search=ETL")
    page.get_by_role("link", name="Show all").click()
    page.locator(".choices").get_by_role("link", name="No version 1").click()
    expect(page.locator("tbody tr[id]")).to_have_count(1)
    page.go_back()
    expect(page.locator("tbody tr[id]")).to_have_count(8)
    page.get_by_label("Search", exact=True).fill("no such thing")
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".empty")).to_contain_text("matches")


def test_the_versions_and_the_history(fleet: Fleet, web: Web, enter: Enter) -> None:
    fleet.dag("generated")
    for number in range(1, 61):
        fleet.version("generated", number, serialized=False)
    fleet.execute("""
        UPDATE {schema}.dag_version
        SET created_at = now() - (version_number %% 2) * interval '1 day' - interval '1 hour'
        WHERE dag_id = 'generated'
    """)
    fleet.execute("SELECT dagbump.bump(dag_ids => %s, caller => 'airflow scheduler')", ["etl.orders"])
    somebody = open_page(enter("admin"), web)
    page = somebody.page
    expect(page.locator(".plugin")).to_contain_text(re.compile(r"etl\.orders, \d+ s ago"))
    page.get_by_role("link", name="Versions", exact=True).click()
    expect(page.locator("#answer")).to_contain_text("1 Dag got a version again and again")
    first = page.locator("tbody tr").first
    expect(first).to_contain_text("generated")
    expect(first.locator("svg")).to_have_attribute("aria-label", re.compile("0, 30, 30$"))
    picture(somebody, "versions-light")
    page.get_by_role("link", name="History").click()
    expect(page.locator("tbody tr")).to_have_count(3)
    expect(page.locator("tbody tr", has_text="2026-11-24T04")).to_contain_text("none (1), 3 (1)")
    expect(page.locator("tbody tr").first).to_contain_text("airflow scheduler")


@pytest.mark.usefixtures("fleet")
def test_ids_are_text_and_links_lead_to_airflows_pages(web: Web, enter: Enter) -> None:
    somebody = open_page(enter("admin"), web)
    row = row_of(somebody.page, RUN_OF_250)
    link = row.get_by_role("link").first
    expect(link).to_have_text(HOSTILE)
    expect(link).to_have_css("text-decoration-line", "none")  # an underline would hide the underscores of ids
    assert somebody.page.evaluate("document.querySelectorAll('script').length") == 1
    href = str(link.get_attribute("href"))
    assert href.startswith("/dags/%3Cscript%3E")
    row_of(somebody.page, "reports.daily").get_by_role("link").first.click()
    somebody.page.wait_for_url(f"{web.url}/dags/reports.daily**")


@pytest.mark.skipif(not IN_MENU, reason="Airflow 3.0 has no menu for pages of plugins")
@pytest.mark.usefixtures("fleet")
def test_the_menu_leads_to_it_and_its_links_lead_out_of_the_frame(web: Web, enter: Enter) -> None:
    somebody = enter("admin")
    somebody.page.get_by_role("button", name="Browse").click()
    somebody.page.get_by_role("menuitem", name="Dag versions").click()
    expect(somebody.in_frame.locator("#answer")).to_have_text(SENTENCE)
    picture(somebody, "runs-light")
    somebody.in_frame.get_by_role("link", name="History").click()
    expect(somebody.in_frame.locator(".empty")).to_contain_text("Nothing has been moved in a Dag that you may see.")
    somebody.in_frame.get_by_role("link", name="Runs", exact=True).click()
    somebody.in_frame.get_by_role("link", name="reports.daily").click()
    somebody.page.wait_for_url(f"{web.url}/dags/reports.daily**")


def test_a_thousand_runs_come_in_pages(emptied: Fleet, web: Web, enter: Enter) -> None:
    old, _ = versions(emptied, "many", 2)
    run = emptied.run("many")
    emptied.ti(run, old, "scheduled", task_id="extract")
    emptied.copy_run(run, 999)
    page = open_page(enter("admin"), web).page
    expect(page.locator("#answer")).to_contain_text("in 1,000 of 1,000 running runs")
    expect(page.locator("tbody tr[id]")).to_have_count(50)
    expect(page.locator(".pages")).to_contain_text("Runs 1 to 50 of 1,000")
    page.get_by_role("link", name="Next").click()
    expect(page.locator(".pages")).to_contain_text("Runs 51 to 100 of 1,000")


# ---- The button.


def test_the_button_moves_what_it_says(fleet: Fleet, web: Web, enter: Enter) -> None:
    somebody = open_page(enter("admin"), web)
    page = somebody.page
    expect(button(somebody)).to_have_text("Move 9 task instances…")
    button(somebody).click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("h2")).to_have_text("Move 9 task instances of 5 runs?")
    expect(dialog.locator("tbody tr")).to_have_count(5)
    picture(somebody, "dialog-light")
    requested = runs_of_dags(dialog)
    dialog.get_by_role("button", name="Move them").click()
    expect(dialog.locator("h2")).to_have_text("Moved 9 task instances of 5 runs.")
    expect(dialog.locator("tbody tr")).to_have_count(5)
    for dag_id, runs in requested.items():
        assert {"dag_run_ids": runs, "refused": False, "method": "POST"} in audited(somebody, web, dag_id)
    moved = fleet.execute("SELECT caller, sum(bumped) FROM dagbump.history GROUP BY caller").fetchall()
    assert moved == [("page 'Dag versions': admin", 9)]
    dialog.get_by_role("button", name="Close").click()
    expect(page.locator("#answer")).to_contain_text("3 of 16 unfinished")
    expect(button(somebody)).to_have_count(0)


def runs_of_dags(dialog: Locator) -> dict[str, list[int]]:
    """Return the runs that the dialog names, by DAG."""
    found: dict[str, list[int]] = {}
    for row in dialog.locator("[data-run]").all():
        dag_id = row.locator("bdi").first.inner_text()
        found.setdefault(dag_id, []).append(int(str(row.get_attribute("data-run"))))
    return found


def audited(somebody: Visitor, web: Web, dag_id: str) -> list[object]:
    """Return what the DAG's own audit log in Airflow says of this user's presses of the button."""
    script = """async (url) => {
        const login = localStorage.getItem("token");
        const answer = await fetch(url, {headers: login ? {Authorization: `Bearer ${login}`} : {}});
        return (await answer.json()).event_logs.map((entry) => entry.extra);
    }"""
    query = urlencode({"dag_id": dag_id, "event": "dagbump_bump", "owner": "admin"})
    return [json.loads(extra) for extra in somebody.page.evaluate(script, f"{web.url}/api/v2/eventLogs?{query}")]


@pytest.mark.usefixtures("fleet")
def test_what_others_hold_is_named_and_left(web: Web, served: Served, enter: Enter) -> None:
    with psycopg.connect(libpq(served[1]), application_name="somebody's notebook") as other:
        other.execute("SELECT 1 FROM task_instance WHERE dag_id = 'etl.orders' AND state = 'scheduled' FOR UPDATE")
        somebody = open_page(enter("admin"), web)
        row = row_of(somebody.page, "2026-11-25T04")
        expect(row.locator(".holder")).to_contain_text("1 task instance locked by pid")
        expect(row.locator(".holder")).to_contain_text("somebody's notebook")
        button(somebody).click()
        somebody.page.get_by_role("button", name="Move them").click()
        expect(somebody.page.get_by_role("dialog").locator("h2")).to_have_text(
            "Moved 6 task instances of 5 runs. 3 task instances left, because another transaction has locked them."
        )


@pytest.mark.usefixtures("fleet")
def test_the_keyboard_is_enough(web: Web, enter: Enter) -> None:
    somebody = open_page(enter("admin"), web)
    page = somebody.page
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    button(somebody).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(button(somebody)).to_be_focused()


# ---- It refreshes itself.


def test_a_version_that_lands_shows_itself_and_the_place_is_kept(fleet: Fleet, web: Web, enter: Enter) -> None:
    page = open_page(enter("admin"), web).page
    row_of(page, "reports.daily").locator(".more").click()
    expect(page.locator(".opened")).to_be_visible()
    page.get_by_label("Search", exact=True).fill("half a w")
    fleet.copy_latest_version("fine")
    expect(page.locator("#answer")).to_contain_text("15 of 16", timeout=2 * PATIENCE_MS)
    expect(page.locator(".opened")).to_contain_text("load")
    expect(page.get_by_label("Search", exact=True)).to_have_value("half a w")
    expect(page.get_by_label("Search", exact=True)).to_be_focused()


# ---- Who may.


def test_a_viewer_has_no_button_and_cannot_do_without(fleet: Fleet, web: Web, enter: Enter) -> None:
    viewer = open_page(enter("viewer"), web)
    expect(viewer.page.locator("#answer")).to_have_text(SENTENCE)
    expect(button(viewer)).to_have_count(0)
    user = open_page(enter("user"), web)
    token = str(user.page.locator("dialog").get_attribute("data-token"))
    runs = [
        int(str(run)) for run in user.page.locator("[data-run]").evaluate_all("rows => rows.map(r => r.dataset.run)")
    ]
    assert len(runs) == 5

    # A write is refused without a token, with another user's token, and from a user who may not edit.
    assert post(viewer, web, runs, None) == 403
    assert post(viewer, web, runs, token) == 403
    assert post(user, web, runs, None) == 403
    assert post(user, web, runs, token + "x") == 403
    assert post(user, web, [2**63], token) == 400
    assert post(user, web, runs, token, so_far={"moved": 10**4000}) == 400
    assert post(user, web, runs * 51, token) == 400
    assert fleet.execute("SELECT count(*) FROM dagbump.history").fetchone() == (0,)
    assert post(user, web, runs, token) == 200
    assert fleet.execute("SELECT sum(bumped) FROM dagbump.history").fetchone() == (9,)


def post(somebody: Visitor, web: Web, runs: list[int], token: str | None, **more: object) -> int:
    """Send the button's request, with the browser's own login."""
    script = """async ([url, body, token]) => {
        const login = localStorage.getItem("token");
        const headers = {"Content-Type": "application/json"};
        if (token) headers["X-Dagbump-Token"] = token;
        if (login) headers["Authorization"] = `Bearer ${login}`;
        const answer = await fetch(url, {method: "POST", headers, body});
        return answer.status;
    }"""
    body = json.dumps({"dag_run_ids": runs, **more})
    status: int = somebody.page.evaluate(script, [f"{web.url}/dagbump/bump", body, token])
    return status


@pytest.mark.usefixtures("fleet")
def test_no_route_answers_nobody(web: Web, browser: Browser) -> None:
    routes = routes_of(web)
    assert len(routes) >= 5
    with visitor(browser) as nobody:
        for path, methods in routes:
            if path == "/static":  # files of ours, the same everywhere
                continue
            for method in methods:
                answer = nobody.context.request.fetch(f"{web.url}/dagbump{path}", method=method, data="{}")
                assert answer.status == 401, (method, path)
                assert "etl" not in answer.text()
                assert "script-src 'self'" in answer.headers["content-security-policy"]
        forged = nobody.context.request.get(f"{web.url}/dagbump/", headers={"Authorization": "Bearer forged"})
        assert forged.status in {401, 403}


@pytest.mark.skipif(not IN_MENU, reason="the scheduler of Airflow 3.0 imports FastAPI itself")
def test_a_scheduler_imports_none_of_it(web: Web) -> None:
    printed = web.run("""
import sys
import airflow.jobs.scheduler_job_runner
import airflow.plugins_manager
import dagbump.airflow_plugin.patches
import dagbump.airflow_plugin.scheduling
found = {"fastapi", "dagbump.airflow_plugin.page.application"} & set(sys.modules)
print("FOUND", found, "dagbump.airflow_plugin.page" in sys.modules)
""")
    assert "FOUND set() True" in printed


def test_an_api_server_imports_no_scheduler_for_it(web: Web) -> None:
    printed = web.run("""
import sys
import dagbump.airflow_plugin.page.application
print("FOUND", {"airflow.jobs.scheduler_job_runner", "dagbump.airflow_plugin.scheduling"} & set(sys.modules))
""")
    assert "FOUND set()" in printed


@pytest.mark.skipif(not HAS_FAB, reason="there are no pins of this release with FAB")
def test_each_user_of_fab_sees_and_does_what_they_may(served_fab: Served, browser: Browser) -> None:
    web, url = served_fab
    with emptied_fleet(url) as fleet, ExitStack() as stack:
        fill(fleet)
        people = {name: stack.enter_context(visitor(browser)) for name in FAB_USERS}
        for name, somebody in people.items():
            somebody.log_in(web.url, name)
            open_page(somebody, web)
        expect(people["admin"].page.locator("#answer")).to_have_text(SENTENCE)
        expect(people["reader_of_one"].page.locator("#answer")).to_contain_text("6 of 6 unfinished")
        expect(button(people["reader_of_one"])).to_have_count(0)
        expect(people["reader_without_runs"].page.locator("#answer")).to_have_text(
            "No Dag that you may see has a running run."
        )

        editor = people["editor_of_one"]
        expect(editor.page.locator("#answer")).to_contain_text("7 of 8 unfinished")
        expect(button(editor)).to_have_text("Move 6 task instances…")
        # Nothing on this page can be moved by anybody, but other pages may have runs that this user may move.
        fleet.execute("UPDATE {schema}.dag SET is_paused = true WHERE dag_id = 'reports.daily'")
        open_page(editor, web, "/?size=1&sort=-verdict")
        expect(editor.page.locator("tbody")).to_contain_text("reports.daily")
        expect(editor.page.get_by_role("link", name="Move what is on all pages…")).to_be_visible()
        fleet.execute("UPDATE {schema}.dag SET is_paused = false WHERE dag_id = 'reports.daily'")
        open_page(editor, web)

        token = str(editor.page.locator("dialog").get_attribute("data-token"))
        every_run = [run for (run,) in fleet.execute("SELECT id FROM {schema}.dag_run").fetchall()]
        assert post(editor, web, every_run, token) == 200
        moved = fleet.execute("SELECT dag_id, sum(bumped) FROM dagbump.history GROUP BY dag_id").fetchall()
        assert moved == [("etl.orders", 6)]
        pressed = fleet.execute(
            "SELECT dag_id, (extra::jsonb ->> 'refused')::boolean FROM {schema}.log WHERE owner = 'editor_of_one' "
            "AND event = 'dagbump_bump'"
        ).fetchall()
        assert ("etl.orders", False) in pressed
        assert ("reports.daily", True) in pressed  # what is refused is audited too
        assert len(pressed) == 7

        fleet.execute("SELECT dagbump.bump()")
        for name, seen in {"admin": 3, "editor_of_one": 2, "reader_of_one": 1, "reader_without_runs": 0}.items():
            page = open_page(people[name], web, "/history").page
            assert len(dags_in_table(page)) == seen, name
        assert dags_in_table(open_page(people["reader_of_one"], web, "/versions").page) == {"etl.orders"}
        assert dags_in_table(open_page(people["reader_without_runs"], web, "/versions").page) == set()


def dags_in_table(page: Page) -> set[str]:
    return set(page.locator("tbody th a:first-child bdi").all_text_contents())


# ---- What is in the way.


def test_what_cannot_be_asked_is_said(web: Web, enter: Enter) -> None:
    somebody = enter("admin")
    for path in (
        "/?page=0",
        "/?page=x",
        "/history?size=251",
        f"/?search={'x' * 251}",
        # PostgreSQL allows no NUL in a text.
        *("/?search=%00", "/?verdict=%00", "/move?search=a%00", "/history?search=%00"),
    ):
        page = open_page(somebody, web, path).page
        expect(page.locator("#answer")).to_have_text("The page does not understand this request.")
    expect(open_page(somebody, web, "/nowhere").page.locator("#answer")).to_have_text("Not Found")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DROP SCHEMA dagbump CASCADE", "dagbump upgrade"),
        ("UPDATE dagbump.installation SET revision = '9999', works_with_packages_from = '9999'", "upgrade the package"),
        ("UPDATE dagbump.installation SET airflow_shape = 'another'", "dagbump upgrade"),
        ("DROP TABLE dagbump.installation", "dagbump upgrade"),
    ],
)
def test_it_says_what_is_missing_and_the_command(
    emptied: Fleet, web: Web, enter: Enter, damage: Any, said: str
) -> None:
    emptied.connection.execute(damage)
    page = open_page(enter("admin"), web).page
    expect(page.locator("#live")).to_contain_text(said)
    emptied.execute("DROP SCHEMA IF EXISTS dagbump CASCADE")
    emptied.execute("CREATE SCHEMA dagbump")


@pytest.mark.usefixtures("emptied")
def test_it_is_where_airflow_is(postgres: Server, dagbump_template: str, tmp_path: Path, browser: Browser) -> None:
    """Airflow may have a path in base_url, and the scheduler's part of the plugin may be off."""
    options = {"path": "/team/airflow", "enabled": False}
    with (
        serving(postgres, dagbump_template, tmp_path, **options) as (web, url),
        psycopg.connect(libpq(url), autocommit=True) as connection,
        visitor(browser) as somebody,
    ):
        fill(Fleet(connection))
        somebody.log_in(web.url, "admin")
        page = open_page(somebody, web).page
        expect(page.locator(".plugin")).to_contain_text("[dagbump] enabled = True")
        link = row_of(page, "reports.daily").get_by_role("link").first
        assert link.get_attribute("href") == "/team/airflow/dags/reports.daily"
        page.get_by_role("link", name="Versions", exact=True).click()
        expect(page.locator("tbody tr")).to_have_count(7)
        assert page.url == f"{web.url}/dagbump/versions"


# ---- For everybody.


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(fleet: Fleet, web: Web, enter: Enter, dark: bool) -> None:
    somebody = open_page(enter("admin", dark=dark), web)
    theme = somebody.page.evaluate("document.documentElement.dataset.theme")
    assert theme == ("dark" if dark else "light")
    problems = somebody.accessibility_problems()
    button(somebody).click()
    if dark:
        picture(somebody, "dialog-dark")
    problems += somebody.accessibility_problems()
    somebody.page.keyboard.press("Escape")
    if dark and IN_MENU:
        somebody.page.goto(f"{web.url}/plugin/dag-versions")
        expect(somebody.in_frame.locator("#answer")).to_have_text(SENTENCE)
        picture(somebody, "runs-dark")
    for path in ("/versions", "/history", "/?search=nothing"):
        problems += open_page(somebody, web, path).accessibility_problems()
        if dark and path == "/versions":
            picture(somebody, "versions-dark")
    fleet.execute("SELECT dagbump.bump()")
    problems += open_page(somebody, web, "/history").accessibility_problems()
    fleet.execute("DROP SCHEMA dagbump CASCADE")
    fleet.execute("CREATE SCHEMA dagbump")
    problems += open_page(somebody, web).accessibility_problems()
    assert problems == []
