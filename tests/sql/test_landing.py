"""A newer version lands during a bump. No TI moves backwards, even if another transaction has already moved it on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagbump
import psycopg
import pytest
from support import ledger
from support.fleet import Fleet, stale_run
from support.server import Connect
from support.waits import until_waiting_for_lock
from typing_extensions import LiteralString

pytestmark = pytest.mark.server

Connection = psycopg.Connection[Any]

GATE = """
    CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF current_setting('application_name') = 'gated' THEN PERFORM pg_advisory_xact_lock(1); END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER gate AFTER UPDATE ON task_instance FOR EACH STATEMENT EXECUTE FUNCTION gate();
"""


@pytest.fixture
def gated(fleet: Fleet, connect: Connect) -> Connection:
    """A connection whose first update of task_instance waits until `while_it_waits` is over."""
    fleet.connection.execute(GATE)
    return connect(application_name="gated")


@contextmanager
def bumping(connect: Connect, gated: Connection, **arguments: Any) -> Iterator[list[dagbump.BumpResult]]:
    """Bump in a thread; the body runs while the bump is in the middle of its first run's update."""
    gate = connect()
    gate.execute("SELECT pg_advisory_lock(1)")
    results: list[dagbump.BumpResult] = []
    thread = threading.Thread(target=lambda: results.append(dagbump.bump(gated, **arguments)))
    thread.start()
    until_waiting_for_lock(connect(autocommit=True), gated)
    yield results
    gate.execute("SELECT pg_advisory_unlock(1)")
    thread.join()
    gated.commit()


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("caller_verifies", [False, True])
def test_a_run_whose_dag_has_a_newer_version_by_now_is_left_to_the_next_call(
    fleet: Fleet, connect: Connect, gated: Connection, caller_verifies: bool
) -> None:
    first_old, first_new = fleet.dag("first", versions=2)
    old, new = fleet.dag("second", versions=2)
    first, second = fleet.run("first"), fleet.run("second")
    for run, version in ((first, first_new), (second, new)):
        fleet.ti(run, version, "success")
    moved = fleet.ti(first, first_old, "queued")
    tis = [fleet.ti(second, old, state) for state in ("running", "scheduled", None)]
    fleet.execute("UPDATE dag_run SET run_after = run_after - interval '1 hour' WHERE id = %s", first)

    with bumping(connect, gated, caller_verifies=caller_verifies) as results:
        newest = fleet.version("second", 3)
        other = connect()
        assert dagbump.bump(other, caller_verifies=True).bumped == len(tis)
        other.commit()

    assert [(row.dag_run_id, row.bumped) for row in results[0].runs] == [(first, 1)]
    assert fleet.versions_of([moved]) == [first_new]
    assert fleet.versions_of(tis) == [newest] * len(tis)


def test_a_run_is_left_alone_where_nobody_has_moved_it_either(
    fleet: Fleet, connect: Connect, gated: Connection
) -> None:
    """The version that was the latest is an old one now. Moving the run there, and verifying for it, would be wrong."""
    runs = []
    for name in ("first", "second"):
        old, new = fleet.dag(name, versions=2)
        run = fleet.run(name)
        fleet.ti(run, new, "success")
        runs.append((run, old, fleet.ti(run, old, "queued")))
    (first, _, _), (second, old, ti) = runs
    fleet.execute("UPDATE dag_run SET run_after = run_after - interval '1 hour' WHERE id = %s", first)

    with bumping(connect, gated, caller_verifies=True) as results:
        newest = fleet.version("second", 3)

    assert [row.dag_run_id for row in results[0].runs] == [first]
    assert fleet.versions_of([ti]) == [old]
    (row,) = dagbump.bump(gated, caller_verifies=True).runs
    assert (row.dag_run_id, row.dag_version_id, row.bumped, row.needs_verify) == (second, newest, 1, True)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE dag_run SET bundle_version = 'x' WHERE id = %s",
        "UPDATE dag_run SET state = 'success' WHERE id = %s",
        "UPDATE dag SET is_paused = TRUE WHERE dag_id = (SELECT dag_id FROM dag_run WHERE id = %s)",
    ],
)
def test_a_run_that_is_not_to_be_examined_by_now_is_left_alone(
    fleet: Fleet, connect: Connect, gated: Connection, change: LiteralString
) -> None:
    tis = []
    for name in ("first", "second"):
        old, new = fleet.dag(name, versions=2)
        run = fleet.run(name)
        fleet.ti(run, new, "success")
        tis.append(fleet.ti(run, old, "queued"))
        if name == "first":
            fleet.execute("UPDATE dag_run SET run_after = run_after - interval '1 hour' WHERE id = %s", run)
    fleet.ti(fleet.run("second"), new, "queued")  # another run of the DAG is as it was

    with bumping(connect, gated) as results:
        fleet.execute(change, run)

    assert len(results[0].runs) == 1
    assert fleet.versions_of(tis[1:]) == [old]


@pytest.mark.parametrize("report_all", [False, True])
def test_a_run_whose_tis_another_bump_has_moved_meanwhile(
    fleet: Fleet, connect: Connect, gated: Connection, report_all: bool
) -> None:
    first, second = stale_run(fleet, "first"), stale_run(fleet, "second")
    fleet.execute("UPDATE dag_run SET run_after = run_after - interval '1 hour' WHERE id = %s", first)

    with bumping(connect, gated, report_all=report_all) as results:
        other = connect()
        assert dagbump.bump(other, [second]).bumped == 1
        other.commit()

    answered = [(row.dag_run_id, row.bumped, row.locked, row.needs_verify) for row in results[0].runs]
    assert answered == [(first, 1, 0, False), *([(second, 0, 0, False)] if report_all else [])]


def test_versions_that_land_all_the_time_move_nothing_backwards(fleet: Fleet, connect: Connect) -> None:
    """Two callers and a DAG processor."""
    ledger.open_book(fleet.connection)
    (version,) = fleet.dag("d", versions=1)
    tis = [ti for _ in range(10) for ti in fleet.tis(fleet.run("d"), version, ["queued"] * 20)]
    landed = threading.Event()
    failures: list[Exception] = []

    def call(caller: Connection) -> None:
        try:
            while not landed.is_set():
                dagbump.bump(caller, caller_verifies=True)
                caller.commit()
        except Exception as error:  # noqa: BLE001  (asserted below)
            failures.append(error)

    callers = [threading.Thread(target=call, args=[connect()]) for _ in range(2)]
    for caller in callers:
        caller.start()
    for number in range(2, 102):
        version = fleet.version("d", number)
    landed.set()
    for caller in callers:
        caller.join()

    assert failures == []
    assert ledger.backwards(fleet.connection) == 0
    last = connect()
    dagbump.bump(last, caller_verifies=True)
    last.commit()
    assert fleet.versions_of(tis) == [version] * len(tis)
