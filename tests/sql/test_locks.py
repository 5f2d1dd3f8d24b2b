"""Two real connections: bump waits for no row lock, loses nothing, and moves nothing twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import dagbump
import psycopg
import pytest
from support.fleet import Fleet
from support.releases import environments
from support.server import Connect
from support.waits import until_waiting_for_lock

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("either_way", "impatient")]

Connection = psycopg.Connection[Any]


def stale_run(fleet: Fleet, *, tis: int, verified: bool = True) -> tuple[int, UUID, UUID, list[UUID]]:
    old, new = fleet.dag("d", versions=2)
    run = fleet.run("d")
    if verified:
        fleet.ti(run, new, "success")
    return run, old, new, [fleet.ti(run, old, "scheduled") for _ in range(tis)]


@pytest.mark.pair
@pytest.mark.parametrize("strength", ["UPDATE", "NO KEY UPDATE", "SHARE"])
@pytest.mark.parametrize("caller_verifies", [False, True])
def test_a_ti_that_is_held_is_left_counted_and_picked_up_later(
    fleet: Fleet, connection: Connection, connect: Connect, strength: str, caller_verifies: bool
) -> None:
    run, old, new, tis = stale_run(fleet, tis=3)
    other = connect()
    other.execute(f"SELECT FROM task_instance WHERE id = %s FOR {strength}".encode(), (tis[1],))

    (row,) = dagbump.bump(connection, caller_verifies=caller_verifies).runs
    connection.commit()
    assert (row.dag_run_id, row.bumped, row.locked) == (run, 2, 1)
    assert fleet.versions_of(tis) == [new, old, new]

    other.rollback()
    (row,) = dagbump.bump(connection, caller_verifies=caller_verifies).runs
    connection.commit()
    assert (row.bumped, row.locked) == (1, 0)
    assert fleet.versions_of(tis) == [new] * 3


def test_a_ti_whose_key_is_shared_is_moved(fleet: Fleet, connection: Connection, connect: Connect) -> None:
    """KEY SHARE is what an INSERT of an XCom or a history row takes; it does not conflict with the bump."""
    _, _, _, tis = stale_run(fleet, tis=1)
    connect().execute("SELECT FROM task_instance WHERE id = %s FOR KEY SHARE", (tis[0],))

    assert dagbump.bump(connection).bumped == 1


def test_all_tis_held_is_said_of_an_unverified_run_too(fleet: Fleet, connection: Connection, connect: Connect) -> None:
    _, _, _, tis = stale_run(fleet, tis=2, verified=False)
    connect().execute("SELECT FROM task_instance WHERE id = ANY (%s) FOR UPDATE", (tis,))

    (row,) = dagbump.bump(connection, caller_verifies=True).runs
    assert (row.bumped, row.locked, row.needs_verify) == (0, 2, True)


class TestLatestVersionHeld:
    """The foreign-key check of the update would wait for a dag_version row that is held FOR UPDATE."""

    @pytest.mark.parametrize("verified", [True, False])
    def test_leaves_the_run_whole(self, fleet: Fleet, connection: Connection, connect: Connect, verified: bool) -> None:
        run, old, new, tis = stale_run(fleet, tis=3, verified=verified)
        other = connect()
        other.execute("SELECT FROM dag_version WHERE id = %s FOR UPDATE", (new,))

        (row,) = dagbump.bump(connection, caller_verifies=True).runs
        connection.commit()
        assert (row.dag_run_id, row.bumped, row.locked, row.needs_verify) == (run, 0, 3, False)
        assert fleet.versions_of(tis) == [old] * 3

        other.rollback()
        (row,) = dagbump.bump(connection, caller_verifies=True).runs
        assert (row.bumped, row.locked, row.needs_verify) == (3, 0, not verified)

    def test_is_no_row_where_nothing_is_stale(self, fleet: Fleet, connection: Connection, connect: Connect) -> None:
        old, new = fleet.dag("d", versions=2)
        fleet.ti(fleet.run("d"), old, "success")
        connect().execute("SELECT FROM dag_version WHERE id = %s FOR UPDATE", (new,))

        assert dagbump.bump(connection, caller_verifies=True).runs == ()

    def test_the_safe_form_does_not_touch_an_unverified_run(
        self, fleet: Fleet, connection: Connection, connect: Connect
    ) -> None:
        _, _, new, _ = stale_run(fleet, tis=3, verified=False)
        connect().execute("SELECT FROM dag_version WHERE id = %s FOR UPDATE", (new,))

        (row,) = dagbump.bump(connection).runs
        assert (row.bumped, row.locked, row.needs_verify) == (0, 0, True)

    def test_the_lock_that_write_dag_takes_is_in_nobodys_way(
        self, fleet: Fleet, connection: Connection, connect: Connect
    ) -> None:
        _, _, new, _ = stale_run(fleet, tis=3)
        connect().execute("SELECT FROM dag_version WHERE id = %s FOR NO KEY UPDATE NOWAIT", (new,))

        assert dagbump.bump(connection).bumped == 3


@pytest.mark.pair
def test_two_bumps_at_once_move_each_ti_once(fleet: Fleet, connection: Connection, connect: Connect) -> None:
    _, _, new, tis = stale_run(fleet, tis=5)
    first = connect()
    assert dagbump.bump(first).bumped == 5

    assert (dagbump.bump(connection).bumped, dagbump.bump(connection).locked) == (0, 5)
    connection.commit()
    first.commit()
    assert dagbump.bump(connection).runs == ()
    assert fleet.versions_of(tis) == [new] * 5


def test_many_bumps_at_once_lose_nothing(fleet: Fleet, connect: Connect) -> None:
    """Eight callers bump until nothing is left to do. Together they move exactly the stale TIs."""
    all_tis: list[UUID] = []
    for number in range(6):
        old, new = fleet.dag(f"d{number}", versions=2)
        run = fleet.run(f"d{number}")
        fleet.ti(run, new, "success")
        all_tis += [fleet.ti(run, old, "queued") for _ in range(25)]
    bumped: list[int] = []

    def caller(connection: Connection) -> Callable[[], None]:
        def call() -> None:
            while (result := dagbump.bump(connection)).runs:
                bumped.append(result.bumped)
                connection.commit()
            connection.rollback()

        return call

    threads = [threading.Thread(target=caller(connect(options="-c lock_timeout=50ms"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(bumped) == len(all_tis)
    stale = fleet.execute(
        "SELECT count(*) FROM task_instance JOIN dag_version AS v ON v.id = dag_version_id WHERE state = 'queued' "
        "AND v.version_number = 1"
    )
    assert stale.fetchone() == (0,)


@pytest.mark.skipif(
    environments.number() >= (3, 4),
    reason="there is no task_instance_history, at which a lock stops the bump here",
)
def test_a_ti_that_finishes_between_being_found_and_being_locked_is_not_bumped(
    fleet: Fleet, connection: Connection, connect: Connect
) -> None:
    """The bump is stopped after it has found its runs: it reads the history of a run that looks unverified.

    A lock on that table, and on nothing else, holds it there while the TI finishes and another becomes verified.
    """
    _, old, new, (finishing, staying) = stale_run(fleet, tis=2, verified=False)
    fleet.past_try(staying, new)
    connection.execute("SET lock_timeout = 0")
    gate = connect()
    gate.execute("LOCK TABLE task_instance_history IN ACCESS EXCLUSIVE MODE")
    answers: list[dagbump.BumpResult] = []
    bumping = threading.Thread(target=lambda: answers.append(dagbump.bump(connection)))
    bumping.start()
    until_waiting_for_lock(connect(autocommit=True), connection)

    fleet.execute("UPDATE task_instance SET state = 'success' WHERE id = %s", finishing)
    gate.rollback()
    bumping.join()
    connection.commit()

    assert [(row.bumped, row.locked) for row in answers[0].runs] == [(1, 0)]
    assert fleet.versions_of([finishing, staying]) == [old, new]


def test_a_bump_keeps_what_it_promised_while_others_queue_behind_it(
    fleet: Fleet, connection: Connection, connect: Connect
) -> None:
    """A task that finishes while a bump is open waits for that commit, and then finds its TI on the new version."""
    _, _, new, (ti,) = stale_run(fleet, tis=1)
    dagbump.bump(connection)
    api_server = connect(autocommit=True)
    finishing = threading.Thread(
        target=lambda: api_server.execute("UPDATE task_instance SET state = 'success' WHERE id = %s", (ti,))
    )
    finishing.start()
    until_waiting_for_lock(connect(autocommit=True), api_server)

    assert dagbump.bump(connection).runs == ()
    connection.commit()
    finishing.join()
    assert fleet.versions_of([ti]) == [new]
    assert fleet.execute("SELECT state FROM task_instance WHERE id = %s", ti).fetchone() == ("success",)


def test_a_rolled_back_bump_leaves_no_trace(fleet: Fleet, connection: Connection) -> None:
    _, old, _, tis = stale_run(fleet, tis=3)
    assert dagbump.bump(connection).bumped == 3
    connection.rollback()

    assert fleet.versions_of(tis) == [old] * 3
    assert dagbump.bump(connection).bumped == 3


def test_repeatable_read_fails_as_any_write_there_does(fleet: Fleet, connection: Connection) -> None:
    _, _, _, tis = stale_run(fleet, tis=1)
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    connection.execute("SELECT 1 FROM dag LIMIT 1")
    fleet.execute("UPDATE task_instance SET state = 'queued' WHERE id = %s", tis[0])

    with pytest.raises(psycopg.errors.SerializationFailure):
        dagbump.bump(connection)


class TestLatestVersionUpdatedAndThenHeld:
    """PostgreSQL grants KEY SHARE on the row as all see it, follows its updates, and waits at the last."""

    @pytest.mark.parametrize(
        ("hold", "verified"),
        [
            ("SELECT FROM dag_version WHERE id = %s FOR UPDATE", True),
            ("SELECT FROM dag_version WHERE id = %s FOR UPDATE", False),
            ("DELETE FROM dag_version WHERE id = %s", False),
        ],
    )
    def test_counts_as_held(
        self, fleet: Fleet, connection: Connection, connect: Connect, hold: str, verified: bool
    ) -> None:
        run, old, new, tis = stale_run(fleet, tis=3, verified=verified)
        other = connect()
        other.execute("UPDATE dag_version SET last_updated = now() WHERE id = %s", (new,))
        other.execute(hold.encode(), (new,))
        connection.execute("SET lock_timeout = 0")  # no other limit than bump's own
        connection.execute("SET statement_timeout = '10s'")

        (row,) = dagbump.bump(connection, caller_verifies=True).runs
        connection.commit()
        assert (row.dag_run_id, row.bumped, row.locked, row.needs_verify) == (run, 0, 3, False)
        assert fleet.versions_of(tis) == [old] * 3

        other.rollback()
        assert dagbump.bump(connection, caller_verifies=True).bumped == 3

    def test_leaves_the_run_whole(self, fleet: Fleet, connection: Connection, connect: Connect) -> None:
        """Not even one of its TIs is locked by the open transaction of the bump."""
        _, _, new, tis = stale_run(fleet, tis=3)
        other = connect()
        other.execute("UPDATE dag_version SET last_updated = now() WHERE id = %s", (new,))
        other.execute("SELECT FROM dag_version WHERE id = %s FOR UPDATE", (new,))
        assert dagbump.bump(connection).locked == 3

        free = "SELECT id FROM task_instance WHERE id = ANY (%s) FOR UPDATE SKIP LOCKED"
        assert len(connect().execute(free, (tis,)).fetchall()) == 3

    @pytest.mark.parametrize("held", [True, False])
    def test_is_asked_for_once_per_call(
        self, fleet: Fleet, connection: Connection, connect: Connect, held: bool
    ) -> None:
        """Each time costs a subtransaction, or up to a millisecond."""
        old, new = fleet.dag("d", versions=2)
        for _ in range(5):
            run = fleet.run("d")
            fleet.ti(run, new, "success")
            fleet.ti(run, old, "queued")
        if held:
            other = connect()
            other.execute("UPDATE dag_version SET last_updated = now() WHERE id = %s", (new,))
            other.execute("SELECT FROM dag_version WHERE id = %s FOR UPDATE", (new,))
        connection.execute("SET track_functions = 'pl'")

        result = dagbump.bump(connection)
        assert (result.bumped, result.locked) == ((0, 5) if held else (5, 0))
        calls = "SELECT pg_stat_get_xact_function_calls('dagbump.take_version'::regproc)"
        assert connection.execute(calls).fetchone() == (1,)

    def test_the_callers_own_lock_timeout_is_as_it_was(self, fleet: Fleet, connection: Connection) -> None:
        stale_run(fleet, tis=1)
        connection.execute("SET lock_timeout = '123ms'")
        assert dagbump.bump(connection).bumped == 1
        assert connection.execute("SHOW lock_timeout").fetchone() == ("123ms",)


UPDATE = "UPDATE task_instance SET hostname = 'x' WHERE id = %s"
LOCK = "SELECT FROM task_instance WHERE id = %s FOR UPDATE"
CHANGES = {
    "updated": [UPDATE],
    "updated, then locked": [UPDATE, LOCK],
    "updated, then deleted": [UPDATE, "DELETE FROM task_instance WHERE id = %s"],
    "given another key": ["UPDATE task_instance SET id = gen_random_uuid() WHERE id = %s"],
    "locked for its key, then updated": ["SELECT FROM task_instance WHERE id = %s FOR KEY SHARE", UPDATE],
    "updated in a savepoint that was rolled back, then locked": ["SAVEPOINT s", UPDATE, "ROLLBACK TO s", LOCK],
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_change_of_a_ti_under_way_is_waited_for(
    fleet: Fleet, connection: Connection, connect: Connect, change: str
) -> None:
    _, old, new, tis = stale_run(fleet, tis=3)
    other = connect()
    for statement in CHANGES[change]:
        other.execute(statement.encode(), (tis[1],) if "%s" in statement else None)

    (row,) = dagbump.bump(connection).runs
    connection.commit()
    assert (row.bumped, row.locked) == (2, 1)
    other.rollback()
    assert fleet.versions_of(tis) == [new, old, new]


class TestNothingToMove:
    """No row is locked, and nothing is written."""

    def test_where_every_stale_ti_is_held(self, fleet: Fleet, connection: Connection, connect: Connect) -> None:
        _, _, new, tis = stale_run(fleet, tis=2)
        connect().execute("SELECT FROM task_instance WHERE id = ANY (%s) FOR UPDATE", (tis,))

        assert dagbump.bump(connection, caller_verifies=True).locked == 2
        third = connect(options="-c lock_timeout=50ms")
        third.execute("SELECT FROM dag_version WHERE id = %s FOR UPDATE", (new,))
        assert connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)

    def test_where_nothing_is_stale(self, fleet: Fleet, connection: Connection) -> None:
        (version,) = fleet.dag("d", versions=1)
        fleet.ti(fleet.run("d"), version, "queued")
        assert dagbump.bump(connection, caller_verifies=True).runs == ()
        assert connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone() == (None,)

    def test_where_a_run_is_only_to_be_verified_and_the_history_is_locked(
        self, fleet: Fleet, connection: Connection, connect: Connect
    ) -> None:
        old, _ = fleet.dag("d", versions=2)
        run = fleet.run("d")
        fleet.ti(run, old, "success")
        connect().execute("LOCK TABLE dagbump.history")

        (row,) = dagbump.bump(connection, caller_verifies=True).runs
        assert (row.dag_run_id, row.bumped, row.locked, row.needs_verify) == (run, 0, 0, True)
