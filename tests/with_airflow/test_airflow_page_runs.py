"""The tab of the runs: its sentences are true, name tasks, agree with each other, and give advice that works."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

import psycopg
import pytest
from dagbump.verdicts import VERDICTS, sentence
from playwright.sync_api import Browser, Locator, expect
from support.browser import Visitor, visitor
from support.fleet import Fleet
from support.page import TASKS, Enter, Served, button, emptied_fleet, fill, open_page, row_of, versions
from support.releases.web import Web, serving
from support.server import Server, libpq

pytestmark = pytest.mark.ui


@pytest.fixture
def fleet(emptied: Fleet) -> Fleet:
    fill(emptied)
    return emptied


@pytest.fixture(scope="module")
def served_without_plugin(
    postgres: Server, dagbump_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """An API server whose scheduler's part is off."""
    with serving(postgres, dagbump_template, tmp_path_factory.mktemp("off"), enabled=False) as served:
        yield served


def many(fleet: Fleet, runs: int) -> None:
    """Make runs of one DAG, each with one task instance that is stale and running, and one that is stale and waits."""
    old, latest = versions(fleet, "many", 2)
    run = fleet.run("many")
    fleet.ti(run, latest, "success", task_id="extract")
    fleet.ti(run, old, "running", task_id="transform")
    fleet.ti(run, old, "scheduled", task_id="load")
    fleet.copy_run(run, runs - 1)


def search(somebody: Visitor, text: str) -> str:
    """Search, and return the sentences about the result."""
    page = somebody.page
    page.get_by_label("Search", exact=True).fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(".searched")).to_contain_text(f"“{text}”")
    return page.locator(".searched").inner_text()


def requests(fleet: Fleet) -> int:
    """Return how many requests of the button Airflow's audit log has."""
    (number,) = fleet.execute("SELECT count(*) FROM {schema}.log WHERE event = 'dagbump_bump'").fetchone() or (0,)
    return int(number)


# ---- Numbers agree.


def test_the_button_says_of_which_runs_it_speaks_and_all_can_be_moved(emptied: Fleet, web: Web, enter: Enter) -> None:
    many(emptied, 300)
    somebody = open_page(enter("admin"), web)
    page = somebody.page
    expect(page.locator("#answer")).to_contain_text("600 of 600 unfinished")
    expect(button(somebody)).to_have_text("Move 100 task instances of the 50 runs on this page…")
    page.get_by_role("link", name="Move what is on all pages…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("h2")).to_have_text("Move 600 task instances of 300 runs?")
    expect(dialog).to_contain_text("300 of them are running")
    expect(dialog).to_contain_text("And 250 more runs. They are moved in 2 batches")
    before = requests(emptied)
    dialog.get_by_role("button", name="Move them").click()
    expect(dialog.locator("h2")).to_have_text("Moved 600 task instances of 300 runs.")
    assert emptied.execute("SELECT sum(bumped) FROM dagbump.history").fetchone() == (600,)
    assert requests(emptied) == before + 2
    dialog.get_by_role("button", name="Close").click()
    expect(page.locator(".empty")).to_contain_text("nothing that you may move")
    page.get_by_role("link", name="Back to the runs").click()
    expect(page.locator("#answer")).to_contain_text("All 600 unfinished task instances of 300 running runs")


def test_pages_sizes_and_the_last_page(emptied: Fleet, web: Web, enter: Enter) -> None:
    many(emptied, 130)
    page = open_page(enter("admin"), web).page
    page.get_by_role("link", name="Last", exact=True).click()
    expect(page.locator(".pages")).to_contain_text("Runs 101 to 130 of 130")
    expect(page.locator("tbody tr[id]")).to_have_count(30)
    page.get_by_role("link", name="25", exact=True).click()
    expect(page.locator("tbody tr[id]")).to_have_count(25)
    page.get_by_role("link", name="Next", exact=True).click()
    expect(page.locator(".pages")).to_contain_text("Runs 26 to 50 of 130")
    assert re.search(r"\?page=2&size=25$", page.url)
    page.get_by_role("link", name="250", exact=True).click()
    expect(page.locator("tbody tr[id]")).to_have_count(130)
    page.goto(f"{web.url}/dagbump/?page=99")
    expect(page.locator(".pages")).to_contain_text("Runs 101 to 130 of 130")


def test_each_column_sorts(fleet: Fleet, web: Web, enter: Enter) -> None:
    page = open_page(enter("admin"), web).page

    def column(number: int) -> list[str]:
        return page.locator(f"tbody tr[id] > :nth-child({number})").all_inner_texts()

    def click(name: str, sort: str, direction: str) -> None:
        page.get_by_role("columnheader", name=name).get_by_role("link").click()
        page.wait_for_url(re.compile(f"sort={sort}$"))
        expect(page.get_by_role("columnheader", name=name)).to_have_attribute("aria-sort", direction)

    click("Dag and run", "dag", "ascending")
    dags = [cell.splitlines()[0] for cell in column(1)]
    ordered = fleet.execute("SELECT dag_id FROM {schema}.dag_run WHERE dag_id <> 'fine' ORDER BY dag_id")
    assert dags == [dag_id for (dag_id,) in ordered]
    click("Dag and run", "-dag", "descending")
    assert [cell.splitlines()[0] for cell in column(1)] == dags[::-1]
    click("Not on it", "-stale", "descending")
    assert [cell.splitlines()[0] for cell in column(4)] == ["2"] * 5 + ["1"] * 3
    click("Version", "-version", "descending")
    assert [cell.partition("→")[2].split()[0] for cell in column(3)] == ["5", "5", "5", "4", "3", "2", "2", "1"]
    click("Tasks", "-tasks", "descending")
    assert "reports.daily" in "".join(column(1)[:3])
    click("Verdict", "verdict", "ascending")
    assert column(2)[0] == "Lacks tasks"
    assert column(2)[-1] == "Dag is paused"


# ---- Tasks have names.


def test_a_row_opens_to_its_tasks(fleet: Fleet, web: Web, served: Served, enter: Enter) -> None:
    latest = versions(fleet, "wide", 2)[1]
    run = fleet.run("wide", "manual")
    fleet.ti(run, latest, "success", task_id="extract")
    for number in range(30):
        fleet.ti(run, None, "queued", task_id="transform", map_index=number)
    with psycopg.connect(libpq(served[1])) as other:
        other.execute("SELECT 1 FROM task_instance WHERE task_id = 'transform' FOR UPDATE")
        somebody = open_page(enter("admin"), web)
        page = somebody.page
        row_of(page, "wide").get_by_role("link", name="Show").click()
        opened = page.locator(".opened")
        expect(opened.locator("caption")).to_have_text("31 tasks of manual, 1 to 25")
        first = opened.locator("tbody tr").first
        expect(first).to_contain_text("load")
        expect(first).to_contain_text("missing")
        cells = opened.locator("tbody tr").nth(1).locator("th, td")
        expect(cells).to_have_text(["transform [0]", "stale, locked", "queued", "none"])
        opened.get_by_role("link", name="Next tasks").click()
        expect(opened.locator("caption")).to_have_text("31 tasks of manual, 26 to 31")
        here = page.url
        page.reload()
        expect(opened.locator("caption")).to_have_text("31 tasks of manual, 26 to 31")
        opened.get_by_role("link", name="transform [29]").click()
        page.wait_for_url(f"{web.url}/dags/wide/runs/manual/tasks/transform/mapped/29**")
        page.goto(here)
        row_of(page, "wide").get_by_role("link", name="Hide").click()
        expect(opened).to_have_count(0)


@pytest.mark.usefixtures("fleet")
def test_the_task_that_is_not_there_is_found(web: Web, enter: Enter) -> None:
    somebody = open_page(enter("admin"), web)
    said = search(somebody, "LOAD")
    assert "of 9 running runs" in said
    assert "Found in the ids of tasks in 9 runs. Of these 9 runs, 1 is as it should be." in said
    assert "In 8 runs, such a task is itself stale, missing or gone." in said
    row_of(somebody.page, "reports.daily").get_by_role("link", name="Show").click()
    row = somebody.page.locator(".opened tbody tr")
    expect(row).to_have_count(1)  # the search has found the task, so only the task is shown
    expect(row).to_contain_text(re.compile(r"load\s+missing"))
    row.get_by_role("link").click()
    somebody.page.wait_for_url(f"{web.url}/dags/reports.daily/tasks/load**")


@pytest.mark.usefixtures("fleet")
def test_every_search_is_answered(web: Web, enter: Enter) -> None:
    somebody = open_page(enter("admin"), web)
    page = somebody.page
    assert "It is in none of them. Runs that are not running are not searched." in search(somebody, "no such thing")
    expect(page.locator("#answer")).to_have_text("No running run with “no such thing” in an id.")
    said = search(somebody, "fine")
    assert "Found in the ids of 1 Dag." in said
    assert "It is fine: nothing in these runs is stale or missing." in said
    expect(page.locator("tbody tr[id]")).to_have_count(1)
    expect(page.locator("#answer")).to_have_text(
        "All 3 unfinished task instances of 1 running run with “fine” in an id are on the latest version of their Dag."
    )
    said = search(somebody, "2026-11-26")
    assert "Found in the ids of 3 runs." in said
    assert "Of these 3 runs, none is as it should be." in said
    expect(page.locator("#answer")).to_contain_text("5 of 6 unfinished")
    page.locator(".choices").get_by_role("link", name="Behind").click()
    expect(page.locator("#answer")).to_contain_text("of the kind “Behind”")


# ---- What is said is so.


def test_a_pinned_run_keeps_its_own_version(emptied: Fleet, web: Web, enter: Enter) -> None:
    old, latest = versions(emptied, "d", 2)
    run = emptied.run("d", "pinned", bundle_version="9f2c1e", created_dag_version_id=old)
    emptied.ti(run, latest, "queued", task_id="extract")
    emptied.ti(run, old, "queued", task_id="transform")
    page = open_page(enter("admin"), web, "/?search=pinned").page
    expect(page.locator("#answer")).to_contain_text("are pinned: they keep the version that they began with")
    expect(row_of(page, "pinned").locator(".versions")).to_have_text(re.compile(r"1, 2\s+→\s+1\s*its own"))
    expect(page.locator("#live")).to_contain_text("1 pinned run keeps its own version and is not counted above.")


def test_the_dialog_says_what_a_bump_does_not_do(emptied: Fleet, web: Web, enter: Enter) -> None:
    old, latest = versions(emptied, "d", 2)
    run = emptied.run("d")
    emptied.ti(run, latest, "success", task_id="extract")
    emptied.ti(run, old, "running", task_id="transform")
    emptied.ti(run, None, "queued", task_id="load")
    somebody = open_page(enter("admin"), web)
    button(somebody).click()
    dialog = somebody.page.get_by_role("dialog")
    expect(dialog).to_contain_text("1 of them is running")
    expect(dialog).to_contain_text("1 task instance is queued without a version")
    expect(dialog).to_contain_text("clear its task afterwards")


def test_a_version_is_said_once_if_there_is_only_one(emptied: Fleet, web: Web, enter: Enter) -> None:
    (only,) = versions(emptied, "d", 1)
    emptied.ti(emptied.run("d"), only, "running", task_id="extract")
    page = open_page(enter("admin"), web).page
    expect(row_of(page, "Lacks tasks").locator(".versions")).to_have_text("1")


def test_what_airflow_will_not_start_is_said_in_its_row(emptied: Fleet, web: Web, enter: Enter) -> None:
    _, latest = versions(emptied, "d", 2)
    run = emptied.run("d")
    emptied.ti(run, latest, "success", task_id="extract")
    for task_id in ("transform", "load"):
        emptied.ti(run, None, "queued", task_id=task_id)
    page = open_page(enter("admin"), web).page
    expect(row_of(page, "Behind")).to_contain_text("2 are queued without a version: clear their tasks")


def test_a_run_with_a_task_that_is_gone_is_not_fine(emptied: Fleet, web: Web, enter: Enter) -> None:
    (latest,) = versions(emptied, "d", 1)
    run = emptied.run("d")
    for task_id in TASKS:
        emptied.ti(run, latest, "success", task_id=task_id)
    emptied.ti(run, latest, "scheduled", task_id="clean_up")
    somebody = open_page(enter("admin"), web)
    page = somebody.page
    expect(page.locator("#live")).to_contain_text("1 run has an unfinished task that the latest version no longer has.")
    expect(page.locator(".reasons li")).to_contain_text("marks the task as removed")
    row = row_of(page, "Task is gone")
    expect(row).to_contain_text("1 gone")
    row.get_by_role("link", name="Show").click()
    expect(page.locator(".opened tbody td")).to_have_text(["gone from the version", "scheduled", "1"])
    assert "Of these 1 run, none is as it should be." in search(somebody, "clean")


def test_the_row_says_how_to_end_the_transaction_in_the_way(
    fleet: Fleet, web: Web, served: Served, enter: Enter
) -> None:
    page = open_page(enter("admin"), web).page
    with psycopg.connect(libpq(served[1])) as other:
        other.execute("SELECT 1 FROM task_instance WHERE dag_id = 'etl.orders' AND state = 'scheduled' FOR UPDATE")
        page.reload()
        holder = row_of(page, "2026-11-25T04").locator(".holder")
        expect(holder).to_contain_text("If it does not end by itself, a DBA can end its session:")
        holder.get_by_text("What to do").click()
        holder.get_by_role("button", name="Copy").click()
        command = page.evaluate("getSelection().toString()")
        assert fleet.connection.execute(command.encode()).fetchall() == [(True,)]
        with pytest.raises(psycopg.OperationalError):
            other.execute("SELECT 1")
    page.reload()
    expect(holder).to_have_count(0)
    assert fleet.connection.execute(command.encode()).fetchall() == []  # it ends no other session


def test_it_says_if_no_scheduler_runs(fleet: Fleet, web: Web, enter: Enter) -> None:
    said = re.compile("No scheduler has sent a heartbeat lately")
    page = open_page(enter("admin"), web).page
    expect(page.locator("#live")).not_to_contain_text(said)
    fleet.execute("UPDATE job SET latest_heartbeat = now() - interval '1 hour'")
    page.reload()
    expect(page.locator("#live")).to_contain_text(said)
    fleet.execute("DELETE FROM job")
    page.reload()
    expect(page.locator("#live")).to_contain_text(said)
    fleet.execute("UPDATE {schema}.dag_run SET state = 'success' WHERE dag_id <> 'fine'")  # nothing waits for a bump
    page.reload()
    expect(page.locator("#live")).not_to_contain_text(said)


# ---- Advice can be followed.


def every_verdict(fleet: Fleet) -> None:
    """Make a run of each verdict: those of `fill`, and the others."""
    fill(fleet)
    for dag_id, columns in (("gone", {"is_stale": True}), ("later", {})):
        old, _ = versions(fleet, dag_id, 2, **columns)
        fleet.ti(fleet.run(dag_id), old, "scheduled", task_id="extract")
    fleet.execute("UPDATE {schema}.dag_run SET run_after = now() + interval '1 day' WHERE dag_id = 'later'")
    own, latest = versions(fleet, "pinned", 2)
    pinned = fleet.run("pinned", bundle_version="9f2c1e", created_dag_version_id=own)
    fleet.ti(pinned, latest, "scheduled", task_id="extract")
    old, unreadable = versions(fleet, "unreadable", 2)
    fleet.ti(fleet.run("unreadable"), old, "scheduled", task_id="extract")
    fleet.execute("DELETE FROM {schema}.serialized_dag WHERE dag_version_id = %s", unreadable)
    fleet.dag("no version")
    fleet.ti(fleet.run("no version"), None, "scheduled", task_id="extract")


# How the advice of a verdict begins; and what somebody can do. An editor is told to do it, and a viewer, whom to ask.
NEXT = {
    "Waits for scheduler": "The scheduler does that in its next loop",
    "Pinned": "Nothing has to be done.",
}
NEXT_WITH_PLUGIN = NEXT | {
    "Lacks tasks": "The scheduler's plugin finds such runs",
    "Behind": "The scheduler's plugin moves them in its next loop",
    "Dag is paused": "Once the Dag is unpaused, the scheduler's plugin brings",
    "Not due yet": "Once its run_after is reached, the scheduler's plugin brings",
}
NEXT_WITHOUT = NEXT | {
    "Lacks tasks": "Nothing in Airflow creates them before the Dag changes again.",
    "Dag is paused": "Once the Dag is unpaused, a bump or the scheduler brings",
    "Not due yet": "Once its run_after is reached, a bump or the scheduler brings",
}
EDIT = {
    "No version": "clear the tasks",
    "Dag is gone": "bring the file back, or fail the run",
    "Dag is paused": "unpause the Dag",
    "Pinned": "clear the run with the latest bundle version",
}
EDIT_WITHOUT = EDIT | {"Behind": "press the button on this page"}
OPERATE = {
    "No version": "run dagbump repair",
    "Version not readable": "have the Dag processor parse",
    "Dag without version": "check whether the Dag processor can parse",
}
OPERATE_WITHOUT = OPERATE | {
    "Lacks tasks": "turn the scheduler's plugin on: set AIRFLOW__DAGBUMP__ENABLED=True for every scheduler, "
    "and restart it",
    "Waits for scheduler": "check that the scheduler runs",
}
COMMANDS = {
    "No version": "dagbump repair --dag-id=legacy",
    "Version not readable": "airflow dags reserialize",
    "Dag without version": "airflow dags list-import-errors",
}
COMMANDS_WITHOUT = COMMANDS | {"Waits for scheduler": "dagbump check"}
OPERATOR = "If you operate Airflow,"
ASK_OPERATOR = "Ask somebody who operates Airflow to"
ASK_EDITOR = "Ask somebody who may edit the Dag and its runs to"
Texts = Mapping[str, str]


@pytest.mark.parametrize(
    ("plugin", "told", "operate", "edit", "commands"),
    [
        ("served", NEXT_WITH_PLUGIN, OPERATE, EDIT, COMMANDS),
        ("served_without_plugin", NEXT_WITHOUT, OPERATE_WITHOUT, EDIT_WITHOUT, COMMANDS_WITHOUT),
    ],
    ids=["with the plugin", "without"],
)
def test_advice_depends_on_what_the_reader_may_do(
    request: pytest.FixtureRequest,
    browser: Browser,
    plugin: str,
    told: Texts,
    operate: Texts,
    edit: Texts,
    commands: Texts,
) -> None:
    web, url = request.getfixturevalue(plugin)
    with emptied_fleet(url) as fleet, visitor(browser) as editor, visitor(browser) as viewer:
        every_verdict(fleet)
        for name, somebody in (("user", editor), ("viewer", viewer)):
            somebody.log_in(web.url, name)
            open_page(somebody, web)
        expect(button(editor)).to_have_count(1)
        expect(button(viewer)).to_have_count(0)
        labels = editor.page.locator(".reasons .badge").all_inner_texts()
        assert set(labels) == {verdict.label.replace("DAG", "Dag") for verdict in VERDICTS.values()}
        for label in labels:
            may, may_not = advice(editor, label), advice(viewer, label)
            for text in (may, may_not):
                assert text.startswith(told.get(label, "")), label
            assert_told(may, OPERATOR, operate.get(label))
            assert_told(may_not, ASK_OPERATOR, operate.get(label))
            assert_told(may_not, ASK_EDITOR, edit.get(label))
            assert "Ask somebody" not in may
            assert OPERATOR not in may_not
            if label in edit:
                by_hand = sentence(edit[label]).rstrip(".")
                assert by_hand in may
                assert by_hand not in may_not
            for somebody in (editor, viewer):
                shown = reason(somebody, label).locator(".command code").all_inner_texts()
                assert shown == ([commands[label]] if label in commands else []), label


def reason(somebody: Visitor, label: str) -> Locator:
    page = somebody.page
    return page.locator(".reasons li", has=page.locator(".badge", has_text=re.compile(f"^{label}$")))


def advice(somebody: Visitor, label: str) -> str:
    return reason(somebody, label).locator(".next").inner_text()


def assert_told(advice: str, who: str, what: str | None) -> None:
    """Assert that the page says what to do, or whom to ask, and says nothing if there is nothing to do."""
    assert f"{who} {what}" in advice if what else who not in advice


@pytest.mark.usefixtures("fleet")
def test_a_command_can_be_copied(web: Web, enter: Enter) -> None:
    page = open_page(enter("admin"), web).page
    command = page.locator(".reasons .command", has_text="dagbump repair")
    command.get_by_role("button", name="Copy").click()
    expect(command.get_by_role("button")).to_have_text("Copied")
    assert page.evaluate("getSelection().toString()") == "dagbump repair --dag-id=legacy"


def test_the_answer_says_why_a_run_was_left(fleet: Fleet, web: Web, enter: Enter) -> None:
    somebody = open_page(enter("admin"), web)
    paused, bumped = (
        int(str(row_of(somebody.page, text).get_attribute("id")).removeprefix("run-"))
        for text in ("reports.daily", "2026-11-25T04")
    )
    token = str(somebody.page.locator("dialog").get_attribute("data-token"))
    fleet.execute("UPDATE {schema}.dag SET is_paused = true WHERE dag_id = 'reports.daily'")
    fleet.execute("SELECT dagbump.bump(dag_run_ids => %s)", [bumped])
    said = said_of(somebody, web, [paused, bumped, 2**62], token)
    assert "Nothing was moved." in said
    assert "1 run had nothing to move any more: the scheduler, or another user, was quicker." in said
    assert "1 run left alone, because a bump looks only at running runs whose Dag is not paused." in said
    assert "1 run left, because you may not edit their Dag, or because they are gone." in said
    pressed = fleet.execute(
        "SELECT dag_id, extra::jsonb -> 'dag_run_ids', extra::jsonb -> 'refused' FROM {schema}.log "
        "WHERE event = 'dagbump_bump' ORDER BY id DESC LIMIT 3"
    ).fetchall()
    assert sorted(pressed, key=str) == sorted(
        [("reports.daily", [paused], False), ("etl.orders", [bumped], False), (None, [2**62], True)], key=str
    )


def said_of(somebody: Visitor, web: Web, runs: list[int], token: str) -> str:
    """Send the button's request for these runs, as the page's script does, and return the text of the answer."""
    script = """async ([url, runs, token]) => {
        const login = localStorage.getItem("token");
        const headers = {"Content-Type": "application/json", "X-Dagbump-Token": token};
        if (login) headers["Authorization"] = `Bearer ${login}`;
        return (await fetch(url, {method: "POST", headers, body: `{"dag_run_ids": ${runs}}`})).text();
    }"""
    return str(somebody.page.evaluate(script, [f"{web.url}/dagbump/bump", json.dumps(runs), token]))
