"""dagbump.versions: what keeps the versions of each DAG."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagbump
import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy.engine import URL
from support.fleet import Fleet
from support.processes import DAGBUMP, command
from support.releases import environments
from support.server import Connect, libpq

Connection = psycopg.Connection[Any]
NOW = datetime.now(timezone.utc)
LONG_AGO = NOW - timedelta(days=30)


def look(connection: Connection, dag_ids: str = "NULL") -> dict[str, dict[str, Any]]:
    with psycopg.Cursor(connection, row_factory=dict_row) as cursor:
        rows = cursor.execute(f"SELECT * FROM dagbump.versions({dag_ids})".encode()).fetchall()
    return {row.pop("dag_id"): row for row in rows}


def test_no_version_no_row(fleet: Fleet, connection: Connection) -> None:
    fleet.dag("d")
    assert look(connection) == {}


@pytest.mark.pair
def test_versions_and_the_latest(fleet: Fleet, connection: Connection) -> None:
    fleet.dag("d")
    for number, created in ((1, LONG_AGO), (2, NOW - timedelta(hours=23)), (3, NOW - timedelta(hours=25))):
        fleet.version("d", number, created_at=created)

    row = look(connection)["d"]
    assert (row["versions"], row["versions_last_day"]) == (3, 1)
    assert (row["version_number"], row["created_at"]) == (3, NOW - timedelta(hours=25))
    assert (row["unreferenced"], row["stale_only"], row["running_runs_behind"]) == (2, 0, 0)


# Since it is a row of task_instance.
A_PAST_TRY_KEEPS_ITS_VERSION = environments.number() >= (3, 4)


def test_whether_a_past_try_keeps_its_version(fleet: Fleet, connection: Connection) -> None:
    old, new = fleet.dag("d", versions=2)
    fleet.past_try(fleet.ti(fleet.run("d"), new, "success"), old)

    assert look(connection)["d"]["unreferenced"] == (0 if A_PAST_TRY_KEEPS_ITS_VERSION else 1)


@pytest.mark.parametrize(
    ("tis", "stale_only", "behind"),
    [
        ([(1, "scheduled")], 1, 1),
        ([(1, None), (2, "running"), (None, "queued")], 2, 1),
        ([(1, "scheduled"), (1, "success")], 0, 1),
        ([(1, "success"), (2, "scheduled")], 1, 1),
        ([(None, "scheduled")], 0, 1),
        ([(3, "scheduled")], 0, 0),
        ([(1, "success")], 0, 0),
    ],
)
def test_held_by_stale_tis_alone(
    fleet: Fleet,
    connection: Connection,
    tis: list[tuple[int | None, str | None]],
    stale_only: int,
    behind: int,
) -> None:
    versions = [None, *fleet.dag("d", versions=3)]
    run = fleet.run("d")
    for number, state in tis:
        fleet.ti(run, versions[number or 0], state)

    row = look(connection)["d"]
    assert (row["stale_only"], row["running_runs_behind"]) == (stale_only, behind)
    on = {number for number, _ in tis if number}
    assert row["unreferenced"] == len({1, 2} - on)

    dagbump.bump(connection, caller_verifies=True)
    row = look(connection)["d"]
    assert (row["stale_only"], row["running_runs_behind"]) == (0, 0)
    assert row["unreferenced"] == len({1, 2} - on) + stale_only


@pytest.mark.parametrize(
    ("run", "dag"),
    [
        ({"state": "queued"}, {}),
        ({"bundle_version": "pinned"}, {}),
        ({}, {"is_paused": True}),
        ({}, {"is_stale": True}),
    ],
)
def test_what_bump_does_not_move_keeps_its_version(
    fleet: Fleet, connection: Connection, run: dict[str, Any], dag: dict[str, Any]
) -> None:
    old, _ = fleet.dag("d", versions=2, **dag)
    fleet.ti(fleet.run("d", **run), old, "scheduled")
    fleet.dag("other", versions=2)

    row = look(connection)["d"]
    assert (row["unreferenced"], row["stale_only"], row["running_runs_behind"]) == (0, 0, 0)


def test_the_same_version_in_two_runs(fleet: Fleet, connection: Connection) -> None:
    old, _ = fleet.dag("d", versions=2)
    for _ in range(2):
        fleet.tis(fleet.run("d"), old, ["scheduled", None])

    row = look(connection)["d"]
    assert (row["stale_only"], row["running_runs_behind"]) == (1, 2)
    fleet.ti(fleet.run("d", state="success"), old, "success")
    assert look(connection)["d"]["stale_only"] == 0


def test_first_what_hurts_most(fleet: Fleet, connection: Connection) -> None:
    fleet.dag("few", versions=1, is_paused=False)
    fleet.dag("many", versions=5)
    old, _ = fleet.dag("behind", versions=2)
    fleet.ti(fleet.run("behind"), old, "scheduled")
    for number in range(9):
        fleet.dag(f"long ago {number}")
        fleet.version(f"long ago {number}", 1, created_at=LONG_AGO)

    assert list(look(connection))[:4] == ["behind", "many", "few", "long ago 0"]


def test_only_what_is_asked_for(fleet: Fleet, connection: Connection) -> None:
    for dag in ("a", "b", "c"):
        old, _ = fleet.dag(dag, versions=2)
        fleet.ti(fleet.run(dag), old, "scheduled")

    assert look(connection).keys() == {"a", "b", "c"}
    assert look(connection, "'{b,nowhere}'") == {"b": look(connection)["b"]}
    assert look(connection, "'{}'") == {}
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="dag_ids must not contain NULL"):
        look(connection, "'{NULL}'")


def test_the_filter_changes_no_row(fleet: Fleet, connection: Connection) -> None:
    referenced, stale, _ = fleet.dag("d", versions=3)
    fleet.dag("other", versions=1)
    run = fleet.run("other")
    fleet.ti(run, referenced, "success")
    fleet.ti(run, stale, "scheduled")

    everything = look(connection)
    assert (everything["d"]["unreferenced"], everything["d"]["stale_only"]) == (0, 1)
    assert look(connection, "'{d}'") == {"d": everything["d"]}


def test_in_a_read_only_transaction(fleet: Fleet, connect: Connect) -> None:
    fleet.dag("d", versions=1)
    connection = connect(options="-c default_transaction_read_only=on")
    assert look(connection).keys() == {"d"}


def test_no_version_is_looked_up(fleet: Fleet, connection: Connection) -> None:
    """Up to Airflow 3.2 a look-up would read all of task_instance: there is no index on dag_version_id."""
    for dag in ("a", "b"):
        versions = fleet.dag(dag, versions=30)
        fleet.ti(fleet.run(dag), versions[0], "scheduled")
        for version in versions:
            fleet.ti(fleet.run(dag, state="success"), version, "success")
    fleet.execute("ANALYZE")

    dagbump.versions(connection)

    scans = connection.execute(
        "SELECT seq_scan + idx_scan FROM pg_stat_xact_user_tables WHERE relname = 'task_instance'"
    ).fetchone()
    assert scans is not None
    assert scans[0] <= 3  # all of it once, and the TIs of each of the two runs


@pytest.mark.airflow
@pytest.mark.skipif(
    environments.number() < (3, 3), reason="db clean fails over a version that a TI is on (3.0: deletes it)"
)
def test_a_version_that_airflow_db_clean_could_not_delete_it_can_after_a_bump(
    fleet: Fleet, connection: Connection, database: URL, tmp_path: Path
) -> None:
    fleet.dag("d")
    old, new = (fleet.version("d", number, created_at=LONG_AGO + timedelta(days=number)) for number in (1, 2))
    run = fleet.run("d")
    fleet.ti(run, old, "scheduled")
    tried = fleet.ti(run, new, "running")
    if not A_PAST_TRY_KEEPS_ITS_VERSION:
        fleet.past_try(tried, old)

    def left_by_db_clean() -> list[int]:
        words = ("--tables", "dag_version", "--clean-before-timestamp", NOW.isoformat(), "--skip-archive", "--yes")
        environments.airflow(environments.release(), database, tmp_path, "db", "clean", *words)
        return [number for (number,) in fleet.execute("SELECT version_number FROM dag_version ORDER BY 1")]

    assert left_by_db_clean() == [1, 2]
    assert look(connection)["d"]["stale_only"] == 1
    dagbump.bump(connection)
    assert look(connection)["d"]["unreferenced"] == 1
    connection.commit()
    assert left_by_db_clean() == [2]


@pytest.mark.pair
def test_in_python(fleet: Fleet, connection: Connection) -> None:
    for dag in ("a", "b"):
        fleet.dag(dag, versions=2)

    (row,) = dagbump.versions(connection, ["b"])
    assert isinstance(row, dagbump.DagVersions)
    assert (row.dag_id, row.versions, row.versions_last_day, row.version_number) == ("b", 2, 2, 2)
    assert len(dagbump.versions(connection)) == 2
    assert dagbump.versions(connection, dag_ids=[]) == ()


@pytest.mark.once
def test_on_the_command_line(fleet: Fleet, database: URL) -> None:
    old, _ = fleet.dag("d", versions=3)[:2]
    fleet.ti(fleet.run("d"), old, "scheduled")
    fleet.dag("other", versions=1)
    url = libpq(database)

    header, first, second = command(*DAGBUMP, "versions", "--url", url).stdout.splitlines()
    assert header.split("  ")[0] == "dag_id"
    assert (first.split()[:5], second.split()[:5]) == (["d", "1", "3", "3", "3"], ["other", "0", "1", "1", "1"])
    (row,) = json.loads(command(*DAGBUMP, "versions", "--json", "--dag-id", "d", "--url", url).stdout)
    assert (row["stale_only"], row["unreferenced"]) == (1, 1)
    assert datetime.fromisoformat(row["created_at"]) > LONG_AGO
    fleet.dag("without")
    done = command(*DAGBUMP, "versions", "--dag-id", "without", "--url", url)
    assert (done.returncode, done.stdout) == (0, "There is no version of DAG without.\n")
    assert command(*DAGBUMP, "versions", "--dag-id", "nowhere", "--url", url).returncode == 1
