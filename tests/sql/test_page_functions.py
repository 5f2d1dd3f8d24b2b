"""The SQL functions that only the page in Airflow's UI calls; test_properties.py compares them with preview."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from dagbump import client
from dagbump.results import RunningRun, TaskOfRun, VersionOfRun, VersionsByDay
from support.fleet import Fleet

pytestmark = pytest.mark.tables

Connection = psycopg.Connection[Any]

DAY = "UPDATE {schema}.dag_version SET created_at = now() - %s::interval WHERE dag_id = %s AND version_number = %s"


def test_running_has_one_row_for_each_running_run(fleet: Fleet, connection: Connection) -> None:
    assert client.running(connection) == ()
    old, latest = fleet.dag("d", versions=2)
    fine, pinned = fleet.run("d", "a"), fleet.run("d", "b", bundle_version="x", created_dag_version_id=old)
    fleet.tis(fine, latest, ["success", "running", None])
    fleet.tis(pinned, None, ["failed", "queued"])
    fleet.tis(pinned, old, ["running"])
    fleet.tis(fleet.run("d", state="success"), old, ["scheduled"])
    (other,) = fleet.dag("other", versions=1, is_paused=True)
    up_for_retry = fleet.run("other", "c")
    ti = fleet.ti(up_for_retry, other, "up_for_retry", try_number=2)
    fleet.past_try(ti, other, "scheduled")
    without_a_ti = fleet.run("other", "d")
    of_d = {
        RunningRun(fine, "d", "a", 2, False, None, 2, 0, 0, 0, 0),
        RunningRun(pinned, "d", "b", 1, True, "versionless", 2, 1, 0, 1, 0),
    }
    of_other = {
        RunningRun(up_for_retry, "other", "c", 1, False, None, 1, 0, 0, 0, 0),
        RunningRun(without_a_ti, "other", "d", 1, False, None, 0, 0, 0, 0, 0),
    }
    assert set(client.running(connection)) == of_d | of_other
    assert set(client.running(connection, ["d"])) == of_d
    assert client.running(connection, []) == ()


def test_running_finds_dags_runs_and_tasks(fleet: Fleet, connection: Connection) -> None:
    fleet.dag("etl")
    old, latest = (fleet.version("etl", number, tasks=("Extract", "load")) for number in (1, 2))
    run = fleet.run("etl", "manual_X")
    fleet.ti(run, latest, "success", task_id="Extract")
    fleet.ti(run, old, None, task_id="gone")

    def found(search: str) -> tuple[bool, ...]:
        (row,) = client.running(connection, search=search)
        return row.dag_found, row.run_found, row.task_found, row.task_behind

    assert found("ET") == (True, False, False, False)
    assert found("l_x") == (False, True, False, False)
    assert found("extr") == (False, False, True, False)
    assert found("LOAD") == (False, False, True, True)  # it is missing
    assert found("gone") == (False, False, True, True)
    assert found("%") == (False, False, False, False)


def test_tasks_of_run_come_in_pages(fleet: Fleet, connection: Connection) -> None:
    fleet.dag("d")
    old, latest = (fleet.version("d", number, tasks=("a", "b", "c")) for number in (1, 2))
    run = fleet.run("d")
    fleet.ti(run, latest, "success", task_id="a")
    fleet.ti(run, None, "queued", task_id="b", map_index=0)
    fleet.ti(run, old, "running", task_id="b", map_index=1)
    fleet.ti(run, latest, None, task_id="z")
    rows = (
        TaskOfRun("c", None, None, None, False, True, False, 4),
        TaskOfRun("z", -1, "no_status", 2, False, False, True, 4),
        TaskOfRun("b", 0, "queued", None, True, False, False, 4),
        TaskOfRun("b", 1, "running", 1, True, False, False, 4),
    )
    assert client.tasks_of_run(connection, run) == rows
    assert client.tasks_of_run(connection, run, page=2, page_size=3) == rows[3:]
    assert client.tasks_of_run(connection, run, page=3, page_size=3) == ()
    assert [task.task_id for task in client.tasks_of_run(connection, run, search="C")] == ["c"]
    assert client.tasks_of_run(connection, 0) == ()


def test_tasks_of_run_names_a_vanished_task_of_a_run_that_preview_does_not_show(
    fleet: Fleet, connection: Connection
) -> None:
    fleet.dag("d")
    latest = fleet.version("d", 1, tasks=("a",))
    run = fleet.run("d")
    fleet.ti(run, latest, "running", task_id="a")
    fleet.ti(run, latest, "scheduled", task_id="z")
    assert client.preview(connection) == ()
    assert client.tasks_of_run(connection, run) == (TaskOfRun("z", -1, "scheduled", 1, False, False, True, 1),)


def test_versions_of_runs_counts_by_version(fleet: Fleet, connection: Connection) -> None:
    first, second, third = fleet.dag("d", versions=3)
    run = fleet.run("d")
    fleet.tis(run, first, ["running", "success"])
    fleet.tis(run, third, ["scheduled", None])
    fleet.tis(run, None, ["queued"])
    ended = fleet.run("d", state="failed")
    fleet.tis(ended, second, ["running"])
    others = fleet.run("d")
    fleet.tis(others, second, ["running"])
    expected = (VersionOfRun(run, None, 1), VersionOfRun(run, 1, 1), VersionOfRun(run, 3, 2))
    assert client.versions_of_runs(connection, [run, ended]) == expected
    assert client.versions_of_runs(connection, [run, others]) == (*expected, VersionOfRun(others, 2, 1))
    assert client.versions_of_runs(connection, []) == ()
    assert connection.execute("SELECT * FROM dagbump.versions_of_runs(NULL)").fetchall() == []


def test_versions_by_day_counts_days_of_24_hours_up_to_now(fleet: Fleet, connection: Connection) -> None:
    fleet.dag("quiet", versions=1)
    fleet.execute(DAY, "40 days", "quiet", 1)
    fleet.dag("busy", versions=5)
    for number, age in enumerate(("-1 hour", "23 hours", "25 hours", "47 hours", "72 hours 1 minute"), 1):
        fleet.execute(DAY, age, "busy", number)
    fleet.dag("without", versions=0)
    assert client.versions_by_day(connection, days=4) == (
        VersionsByDay("busy", 5, (1, 0, 2, 2)),
        VersionsByDay("quiet", 1, (0, 0, 0, 0)),
    )
    (only,) = client.versions_by_day(connection, ["quiet"])
    assert len(only.by_day) == 14
    assert client.versions_by_day(connection, []) == ()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("running('{NULL}')", "dag_ids must not contain NULL"),
        ("tasks_of_run(1, page => 0)", "page and page_size must be 1 or more"),
        ("tasks_of_run(1, page_size => NULL)", "page and page_size must be 1 or more"),
        ("versions_by_day('{NULL}')", "dag_ids must not contain NULL"),
        ("versions_by_day(days => 0)", "days must be between 1 and 366, not 0"),
        ("versions_by_day(days => NULL)", "days must be between 1 and 366, not NULL"),
        ("versions_of_runs('{1,NULL}')", "dag_run_ids must not contain NULL"),
    ],
)
def test_what_means_nothing_is_refused(connection: Connection, call: str, said: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=said):
        connection.execute(f"SELECT * FROM dagbump.{call}".encode())
