"""The button of the page in Airflow's UI, when something interrupts it: other users, an error, or Escape."""

from __future__ import annotations

import psycopg
import pytest
from playwright.sync_api import Page, Route, expect
from support.browser import Visitor
from support.fleet import Fleet
from support.page import Enter, Served, button, open_page, versions
from support.releases.web import Web
from support.server import libpq
from support.waits import until

pytestmark = pytest.mark.ui

# This is more than half of a batch, so two such runs are two batches.
OF_A_RUN = 2_501


@pytest.fixture
def two_batches(emptied: Fleet) -> Fleet:
    """A fleet whose stale task instances the button moves in two requests."""
    old, latest = versions(emptied, "large", 2)
    run = emptied.run("large")
    emptied.ti(run, latest, "success", task_id="extract")
    emptied.ti(run, old, "scheduled", task_id="transform")
    emptied.execute(
        "INSERT INTO task_instance SELECT copy.* FROM task_instance AS ti CROSS JOIN generate_series(2, %s) AS number "
        "CROSS JOIN LATERAL jsonb_populate_record(ti, jsonb_build_object('id', gen_random_uuid(), "
        "'task_id', 'transform_' || number)) AS copy WHERE ti.task_id = 'transform'",
        OF_A_RUN,
    )
    emptied.copy_run(run, 1)
    return emptied


def runs_moved(fleet: Fleet) -> int:
    (runs,) = fleet.execute("SELECT count(*) FROM dagbump.history").fetchone() or (0,)
    return int(runs)


def waiting(fleet: Fleet) -> int:
    """Return how many of the API server's connections wait for a lock."""
    (connections,) = fleet.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    ).fetchone() or (0,)
    return int(connections)


def open_dialog(somebody: Visitor) -> Page:
    button(somebody).click()
    return somebody.page


def test_if_the_server_is_busy_the_button_waits(two_batches: Fleet, served: Served, web: Web, enter: Enter) -> None:
    somebody, another = open_page(enter("admin"), web), enter("viewer")
    with psycopg.connect(libpq(served[1])) as other:
        other.execute("LOCK TABLE dagbump.history")
        another.page.evaluate("for (const size of [25, 50]) fetch(`/dagbump/?size=${size}`); null")
        until(lambda: waiting(two_batches) == 2, lambda: "two requests of the page wait for the lock")
        open_dialog(somebody).get_by_role("button", name="Move them").click()
        expect(somebody.page.locator(".progress")).to_contain_text("The API server is busy")
    expect(somebody.page.get_by_role("dialog")).to_contain_text(f"Moved {2 * OF_A_RUN:,} task instances of 2 runs.")
    assert runs_moved(two_batches) == 2


def test_escape_stops_after_the_batch_under_way(two_batches: Fleet, served: Served, web: Web, enter: Enter) -> None:
    page = open_dialog(open_page(enter("admin"), web))
    posted: list[str] = []
    page.on("request", lambda request: posted.append(request.url) if request.method == "POST" else None)
    with psycopg.connect(libpq(served[1])) as other:
        other.execute("LOCK TABLE log")
        page.get_by_role("button", name="Move them").click()
        until(lambda: waiting(two_batches) == 1, lambda: "the first batch waits for the lock")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator("[data-dialog]")).to_have_text(f"Move {OF_A_RUN:,} task instances…")
    assert len(posted) == 1
    assert runs_moved(two_batches) == 1


def test_if_the_network_fails_the_dialog_says_what_was_moved_before(two_batches: Fleet, web: Web, enter: Enter) -> None:
    page = open_dialog(open_page(enter("admin"), web))

    def fail_after_one(route: Route) -> None:
        route.abort() if runs_moved(two_batches) else route.continue_()

    page.route("**/dagbump/bump", fail_after_one)
    page.get_by_role("button", name="Move them").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("The API server does not answer.")
    expect(dialog).to_contain_text(f"Moved {OF_A_RUN:,} task instances of 1 run.")


def test_after_an_error_of_any_kind_the_dialog_does_not_say_that_nothing_was_changed(
    two_batches: Fleet, web: Web, enter: Enter
) -> None:
    page = open_dialog(open_page(enter("admin"), web))
    two_batches.execute("ALTER TABLE {schema}.log RENAME TO log_away")
    try:
        page.get_by_role("button", name="Move them").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("This went wrong.")
    finally:
        two_batches.execute("ALTER TABLE {schema}.log_away RENAME TO log")
    expect(dialog).not_to_contain_text("Nothing was changed")
    expect(dialog).to_contain_text("The history tells what it has done.")


# A query that ends the sessions of the API server that wait for a lock.
END_WAITING = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


def test_a_connection_that_the_server_has_ended_may_be_tried_again(
    two_batches: Fleet, served: Served, web: Web, enter: Enter
) -> None:
    page = open_page(enter("viewer"), web).page
    with psycopg.connect(libpq(served[1])) as other:
        other.execute("LOCK TABLE dagbump.history")
        page.evaluate(
            """(url) => {
            const login = localStorage.getItem("token");
            window.asked = fetch(url, {headers: login ? {Authorization: `Bearer ${login}`} : {}});
        }""",
            f"{web.url}/dagbump/?size=25",
        )
        until(lambda: waiting(two_batches) == 1, lambda: "a request of the page waits for the lock")
        two_batches.execute(END_WAITING)
    status, seconds, text = page.evaluate("""async () => {
        const answer = await window.asked;
        return [answer.status, answer.headers.get("Retry-After"), await answer.text()];
    }""")
    assert (status, seconds) == (503, "5")
    assert "The connection to the database was lost." in text


def test_the_button_asks_again_if_its_connection_is_lost(
    two_batches: Fleet, served: Served, web: Web, enter: Enter
) -> None:
    page = open_dialog(open_page(enter("admin"), web))
    with psycopg.connect(libpq(served[1])) as other:
        other.execute("LOCK TABLE log")
        page.get_by_role("button", name="Move them").click()
        until(lambda: waiting(two_batches) == 1, lambda: "the first batch waits for the lock")
        two_batches.execute(END_WAITING)
        expect(page.locator(".progress")).to_contain_text("has lost its database")
    expect(page.get_by_role("dialog")).to_contain_text(f"Moved {2 * OF_A_RUN:,} task instances of 2 runs.")
    assert runs_moved(two_batches) == 2
