"""The tabs of the versions and of the history are sorted and paged as that of the runs is, and the address says how."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import FrameLocator, Page, expect
from support.fleet import Fleet
from support.page import IN_MENU, Enter, open_page
from support.releases.web import Web

pytestmark = pytest.mark.ui

in_menu = pytest.mark.skipif(not IN_MENU, reason="Airflow 3.0 shows no page of a plugin in a frame")


def of_versions(fleet: Fleet) -> None:
    """Make 130 DAGs: the higher the number, the more versions; all of them older than the days of the plot but one."""
    for number in range(130):
        fleet.dag(f"dag_{number:03}", versions=1 + number // 50)
    fleet.execute("UPDATE {schema}.dag_version SET created_at = now() - interval '30 days' WHERE dag_id <> 'dag_007'")


def of_history(fleet: Fleet) -> None:
    """Make 130 entries, of which the higher ones moved more, earlier."""
    fleet.dag("dag_000")
    fleet.execute("""
        INSERT INTO dagbump.history
        SELECT
            now() - number * interval '1 minute', 'role_' || number %% 3, 'psql', number, 'dag_000',
            to_char(number, '"run_"FM000'),
            jsonb_build_array(jsonb_build_object('version_number', number %% 7, 'task_instances', number)),
            gen_random_uuid(), 7 + number, number, NULL, gen_random_uuid()
        FROM generate_series(0, 129) AS number
    """)


def column(page: Page | FrameLocator, number: int) -> list[str]:
    return [cell.splitlines()[0] for cell in page.locator(f"tbody tr > :nth-child({number})").all_inner_texts()]


def sort(page: Page, name: str, wanted: str) -> None:
    head = page.get_by_role("columnheader", name=re.compile(rf"^{name}( [↑↓])?$"))
    head.get_by_role("link").click()
    page.wait_for_url(re.compile(rf"\?sort={wanted}(&|$)"))
    direction = "descending" if wanted.startswith("-") else "ascending"
    expect(head).to_have_attribute("aria-sort", direction)


VERSIONS = {"The last 14 days": "days", "Last day": "last_day", "Versions": "versions", "Latest": "latest"} | {
    "Running runs behind": "behind",
    "Kept by stale ones only": "stale_only",
    "Kept by none": "unreferenced",
}


def test_each_column_of_the_versions_sorts(emptied: Fleet, web: Web, enter: Enter) -> None:
    of_versions(emptied)
    old, latest = emptied.dag("behind", versions=2)
    run = emptied.run("behind")
    emptied.ti(run, latest, "success", task_id="a")
    emptied.ti(run, old, "scheduled", task_id="b")
    page = open_page(enter("admin"), web, "/versions").page
    first = {}
    for name, wanted in VERSIONS.items():
        sort(page, name, f"-{wanted}")
        first[wanted] = column(page, 1)[0]
    assert first == {
        "days": "behind",
        "last_day": "behind",
        "versions": "dag_100",
        "latest": "behind",
        "behind": "behind",
        "stale_only": "behind",
        "unreferenced": "dag_100",
    }
    sort(page, "Dag", "dag")
    assert column(page, 1) == ["behind", *(f"dag_{number:03}" for number in range(49))]
    sort(page, "Dag", "-dag")
    assert column(page, 1) == [f"dag_{number:03}" for number in range(129, 79, -1)]
    sort(page, "Versions", "-versions")
    sort(page, "Versions", "versions")
    assert column(page, 4) == ["1"] * 50


HISTORY = {"When": "when", "Task instances": "bumped", "From versions": "from", "To": "to"}


def test_each_column_of_the_history_sorts(emptied: Fleet, web: Web, enter: Enter) -> None:
    of_history(emptied)
    page = open_page(enter("admin"), web, "/history").page
    first = {}
    for name, wanted in HISTORY.items():
        for direction in (f"-{wanted}", wanted):
            sort(page, name, direction)
            first[direction] = page.locator("tbody th").first.inner_text().splitlines()[1]
    assert first == {
        "-when": "run_000",
        "when": "run_129",
        "-bumped": "run_129",
        "bumped": "run_000",
        "-from": "run_006",
        "from": "run_000",
        "-to": "run_129",
        "to": "run_000",
    }
    sort(page, "Dag and run", "dag")
    assert page.locator("tbody th").first.inner_text().splitlines()[1] == "run_000"
    sort(page, "By", "by")
    assert column(page, 6)[0] == "role_0"
    sort(page, "By", "-by")
    assert column(page, 6)[0] == "role_2"


@pytest.mark.parametrize(
    ("tab", "make", "what"), [("versions", of_versions, "Dags"), ("history", of_history, "Entries")]
)
def test_pages_sizes_and_the_last_page(
    emptied: Fleet, web: Web, enter: Enter, tab: str, make: Callable[[Fleet], None], what: str
) -> None:
    make(emptied)
    page = open_page(enter("admin"), web, f"/{tab}").page
    pages = page.locator(".pages > span").first
    expect(pages).to_have_text(f"{what} 1 to 50")  # the auth manager has not been asked about the others
    page.get_by_role("link", name="Last", exact=True).click()
    expect(pages).to_have_text(f"{what} 101 to 130 of 130")
    expect(page.locator("tbody tr")).to_have_count(30)
    page.get_by_role("link", name="Previous", exact=True).click()
    expect(pages).to_have_text(f"{what} 51 to 100")
    page.get_by_role("link", name="25", exact=True).click()
    expect(pages).to_have_text(f"{what} 1 to 25")
    page.get_by_role("link", name="Next", exact=True).click()
    expect(pages).to_have_text(f"{what} 26 to 50")
    assert page.url.endswith(f"/{tab}?page=2&size=25")
    page.get_by_role("link", name="250", exact=True).click()
    expect(pages).to_have_text(f"{what} 1 to 130 of 130")
    expect(page.get_by_role("link", name="Last", exact=True)).to_have_count(0)


def test_the_history_that_one_may_not_see_is_not_counted(emptied: Fleet, web: Web, enter: Enter) -> None:
    of_history(emptied)
    emptied.execute("UPDATE dagbump.history SET dag_id = 'of a DAG that is gone' WHERE dag_run_id < 100")
    page = open_page(enter("admin"), web, "/history?size=25&page=1000000").page
    expect(page.locator(".pages > span").first).to_have_text("Entries 26 to 30 of 30")
    expect(page.locator(".note")).to_contain_text("Entries of Dags that have been deleted")
    emptied.execute("UPDATE dagbump.history SET dag_id = 'of a DAG that is gone'")
    page.goto(f"{web.url}/dagbump/history")
    expect(page.locator(".empty")).to_contain_text("Nothing has been moved in a Dag that you may see.")
    expect(page.locator(".note")).to_contain_text("Entries of Dags that have been deleted")
    page.goto(f"{web.url}/dagbump/history?search=nothing&page=3")
    expect(page.locator(".empty")).to_contain_text("Nothing that matches has been moved in a Dag that you may see.")


def test_the_other_tabs_keep_the_search(emptied: Fleet, web: Web, enter: Enter) -> None:
    of_versions(emptied)
    page = open_page(enter("admin"), web, "/?search=dag_12%26&sort=dag").page
    for tab in ("Versions", "History", "Runs"):
        page.get_by_role("link", name=tab, exact=True).click()
        page.wait_for_url("**?search=dag_12%26")
        expect(page.get_by_label("Search", exact=True)).to_have_value("dag_12&")
    page.get_by_role("link", name="Show all").first.click()
    page.get_by_role("link", name="Versions", exact=True).click()
    page.wait_for_url("**/versions")


@in_menu
@pytest.mark.parametrize(("tab", "make"), [("versions", of_versions), ("history", of_history)])
def test_airflows_address_keeps_order_size_and_page(
    emptied: Fleet, web: Web, enter: Enter, tab: str, make: Callable[[Fleet], None]
) -> None:
    make(emptied)
    somebody = enter("admin")
    somebody.page.goto(f"{web.url}/plugin/dag-versions/dagbump/{tab}?search=dag_0")
    frame = somebody.in_frame
    pages = frame.locator(".pages > span").first
    head = frame.get_by_role("columnheader", name=re.compile("^Dag"))
    head.get_by_role("link").click()
    expect(head).to_have_attribute("aria-sort", "ascending")
    frame.get_by_role("link", name="25", exact=True).click()
    expect(pages).to_contain_text("1 to 25")
    frame.get_by_role("link", name="Next", exact=True).click()
    expect(pages).to_contain_text("26 to 50")
    shown = column(frame, 1)
    address = f"{web.url}/plugin/dag-versions/dagbump/{tab}?search=dag_0&sort=dag&page=2&size=25"
    expect(somebody.page).to_have_url(address)
    somebody.page.go_back()
    expect(pages).to_contain_text("1 to 25")
    somebody.page.go_forward()
    expect(pages).to_contain_text("26 to 50")
    somebody.page.reload()
    expect(pages).to_contain_text("26 to 50")
    assert column(frame, 1) == shown
    colleague = enter("viewer")
    colleague.page.goto(address)
    expect(colleague.in_frame.locator(".pages > span").first).to_contain_text("26 to 50")
