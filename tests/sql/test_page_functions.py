"""The SQL functions that only the page in Airflow's UI calls: running, versions_of_runs, versions_by_day."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from dagbump import client
from dagbump.results import RunningTotals, VersionOfRun, VersionsByDay
from support.fleet import Fleet

pytestmark = pytest.mark.tables

Connection = psycopg.Connection[Any]

DAY = "UPDATE {schema}.dag_version SET created_at = now() - %s::interval WHERE dag_id = %s AND version_number = %s"


def test_running_counts_the_unfinished_task_instances_of_running_runs(fleet: Fleet, connection: Connection) -> None:
    assert client.running(connection) == RunningTotals(0, 0)
    old, latest = fleet.dag("d", versions=2)
    fleet.tis(fleet.run("d"), latest, ["success", "running", None])
    fleet.tis(fleet.run("d", bundle_version="pinned"), None, ["failed", "scheduled"])
    fleet.tis(fleet.run("d", state="success"), old, ["scheduled"])
    (other,) = fleet.dag("other", versions=1, is_paused=True)
    ti = fleet.ti(fleet.run("other"), other, "up_for_retry", try_number=2)
    fleet.past_try(ti, other, "scheduled")
    fleet.run("other")  # without a TI
    assert client.running(connection) == RunningTotals(4, 4)
    assert client.running(connection, ["d"]) == RunningTotals(2, 3)
    assert client.running(connection, []) == RunningTotals(0, 0)


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
        ("versions_by_day('{NULL}')", "dag_ids must not contain NULL"),
        ("versions_by_day(days => 0)", "days must be between 1 and 366, not 0"),
        ("versions_by_day(days => NULL)", "days must be between 1 and 366, not NULL"),
        ("versions_of_runs('{1,NULL}')", "dag_run_ids must not contain NULL"),
    ],
)
def test_what_means_nothing_is_refused(connection: Connection, call: str, said: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=said):
        connection.execute(f"SELECT * FROM dagbump.{call}".encode())
