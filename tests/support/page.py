"""The page "Dag versions" in a browser: a fleet with something to show, and the actions of the tests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from dagbump import database as dagbump_database
from dagbump.installation import installer
from playwright.sync_api import Locator, Page, expect
from sqlalchemy.engine import URL

from support.browser import PATIENCE_MS, Visitor
from support.fleet import Fleet
from support.processes import CHECKOUT
from support.releases import environments
from support.releases.web import Web
from support.server import libpq

IN_MENU = environments.number() >= (3, 1)
# Where pictures of the page are put, for the documents; made with DAGBUMP_SCREENSHOTS=1.
PICTURES = CHECKOUT / "docs" / "page" if os.environ.get("DAGBUMP_SCREENSHOTS") == "1" else None

TASKS = ("extract", "transform", "load")
HOSTILE = "<script>alert(1)</script> \"quoted\" 'ids' \u202eright to left"
RUN_OF_250 = "x" * 250

expect.set_options(timeout=PATIENCE_MS)


Served = tuple[Web, URL]


_ROUTES = """
import json
from dagbump.airflow_plugin.page.application import create_routes
routes = create_routes().routes
print("ROUTES", json.dumps([[route.path, sorted(getattr(route, "methods", None) or ["mount"])] for route in routes]))
"""

Enter = Callable[..., Visitor]


def routes_of(web: Web) -> list[tuple[str, list[str]]]:
    """Return the path and the methods of each route of the page."""
    return [(path, methods) for path, methods in json.loads(web.run(_ROUTES).partition("ROUTES ")[2])]


def _empty(connection: psycopg.Connection) -> None:
    """Throw everything away; a page that was left open may still read it, and a deadlock with that is no fault."""
    for last in (False, False, True):
        try:
            with connection.transaction():
                connection.execute("TRUNCATE task_instance, dag_run, serialized_dag, dag_version, dag CASCADE")
                connection.execute("DROP SCHEMA IF EXISTS dagbump CASCADE")
        except psycopg.errors.DeadlockDetected:
            if last:
                raise
        else:
            return


@contextmanager
def emptied_fleet(url: URL) -> Iterator[Fleet]:
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        _empty(connection)
        installer.upgrade(dagbump_database.create_engine(libpq(url)))
        yield Fleet(connection)


def versions(fleet: Fleet, dag_id: str, number: int, **columns: Any) -> list[UUID]:
    fleet.dag(dag_id, **columns)
    return [fleet.version(dag_id, one, tasks=TASKS) for one in range(1, number + 1)]


def fill(fleet: Fleet) -> None:
    """Make a fleet of which there is something to tell: 13 of 17 TIs are stale, in 8 of 9 runs, one of them pinned."""
    of_etl = versions(fleet, "etl.orders", 5)
    for day in (24, 25, 26):
        run = fleet.run("etl.orders", f"scheduled__2026-11-{day}T04:00:00+00:00")
        fleet.ti(run, of_etl[4], "success", task_id="extract")
        fleet.ti(run, of_etl[2], "scheduled", task_id="transform")
        fleet.ti(run, None if day == 24 else of_etl[3], None, task_id="load")
    of_reports = versions(fleet, "reports.daily", 3)  # the run lacks a task, and counts as verified
    run = fleet.run("reports.daily", "scheduled__2026-11-26T05:00:00+00:00")
    fleet.ti(run, of_reports[2], "running", task_id="extract")
    fleet.ti(run, of_reports[0], "queued", task_id="transform")
    of_ml = versions(fleet, "ml.train", 2)  # a version has landed
    run = fleet.run("ml.train", "manual__2026-11-26T09:12:44+00:00")
    fleet.ti(run, of_ml[0], "running", task_id="extract")
    fleet.ti(run, of_ml[0], None, task_id="clean_up")
    of_billing = versions(fleet, "billing", 4, is_paused=True)
    run = fleet.run("billing", "scheduled__2026-11-25T22:00:00+00:00")
    fleet.ti(run, of_billing[3], "success", task_id="extract")
    fleet.ti(run, of_billing[1], "scheduled", task_id="load")
    of_legacy = versions(fleet, "legacy", 2)
    pinned = fleet.run("legacy", "backfill__2026-11-01", bundle_version="9f2c1e", created_dag_version_id=of_legacy[0])
    fleet.ti(pinned, None, None, task_id="extract")
    of_hostile = versions(fleet, HOSTILE, 2)
    run = fleet.run(HOSTILE, RUN_OF_250)
    fleet.ti(run, of_hostile[1], "success", task_id="extract")
    for task_id in ("transform", "load"):
        fleet.ti(run, of_hostile[0], "scheduled", task_id=task_id)
    of_fine = versions(fleet, "fine", 2)
    run = fleet.run("fine")
    for task_id in TASKS:
        fleet.ti(run, of_fine[1], "scheduled", task_id=task_id)
    # A scheduler whose heartbeat does not grow old while a test runs.
    fleet.execute("DELETE FROM {schema}.job")
    fleet.execute(
        "INSERT INTO {schema}.job (job_type, state, latest_heartbeat) "
        "VALUES ('SchedulerJob', 'running', now() + interval '1 day')"
    )


SENTENCE = "12 of 16 unfinished task instances are not on the latest version of their Dag, in 7 of 8 running runs."


def picture(somebody: Visitor, name: str) -> None:
    if PICTURES:
        PICTURES.mkdir(exist_ok=True)
        somebody.page.screenshot(path=PICTURES / f"{name}.png")


def open_page(somebody: Visitor, web: Web, path: str = "/") -> Visitor:
    somebody.page.goto(f"{web.url}/dagbump{path}")
    somebody.page.locator("#live h2, #live .empty").first.wait_for()
    expect(somebody.page.locator("#signing-in")).to_have_count(0)  # Airflow 3.0: the script has found the login
    return somebody


def row_of(page: Page, text: str) -> Locator:
    """Return the run's row that has a text in it."""
    return page.locator("tr[id]", has_text=text)


def button(somebody: Visitor) -> Locator:
    return somebody.page.locator("[data-dialog]")
