"""Everybody works at once, on real connections, and nothing that must never happen does.

The first class shows of each count that must be zero that it would not stay zero.
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import closing
from typing import Any

import dagbump
import psycopg
import pytest
from sqlalchemy.engine import URL
from support import ledger, proof
from support.crowd import SCHEDULERS, WRITERS, Crowd, Outcome, VersionWork
from support.fleet import Fleet, stale_run
from support.releases import environments
from support.server import Connect, Server
from support.waits import until, until_waiting_for_lock

pytestmark = pytest.mark.once  # pg_locks.waitstart is there from PostgreSQL 14 on

Connection = psycopg.Connection[Any]

# Who works, and for how many seconds: all of them, then a scheduler alone, in three ways.
ALL, ALONE, STOCK, WITHOUT = (
    "dagbump, all of it",
    "dagbump in the schedulers alone",
    "Airflow 3.3 without dagbump",
    "no work on versions",
)
SECONDS = {ALL: 600, ALONE: 200, STOCK: 200, WITHOUT: 200} if proof.LONG else {ALL: 20, ALONE: 6, STOCK: 8, WITHOUT: 6}
VERSION_WORK: dict[str, VersionWork] = {STOCK: "stock", WITHOUT: "none"}
# What can go wrong without dagbump.
ALSO_OF_STOCK = (
    "deadlocks",
    "statements about versions that waited for a row lock",
    "TIs that went backwards",
    "tasks that never got a TI",
    "TIs stale at the end",
)


class TestEachCountCanFail:
    """Something is broken on purpose, and exactly its own count says so."""

    @pytest.fixture
    def crowd(self, database: URL) -> Crowd:
        crowd = Crowd(database)
        crowd.populate()
        crowd.settle()
        return crowd

    @pytest.fixture
    def broken(self, crowd: Crowd, connect: Connect) -> Connection:
        """A connection with which a test breaks something. Before that, all counts are zero."""
        assert not any(crowd.outcome().zeros.values())
        return connect(autocommit=True)

    def not_zero(self, crowd: Crowd) -> dict[str, int]:
        return {what: count for what, count in crowd.outcome().zeros.items() if count}

    def test_a_bump_that_waits(self, fleet: Fleet, database: URL, connect: Connect) -> None:
        crowd, run = Crowd(database), stale_run(fleet)
        for function in ("bump", "take_version"):
            (definition,) = fleet.execute(
                "SELECT pg_get_functiondef(oid) FROM pg_proc "
                "WHERE pronamespace = 'dagbump'::regnamespace AND proname = %s",
                function,
            ).fetchone() or ("",)
            fleet.connection.execute(definition.replace("SKIP LOCKED", "").encode())
        fleet.execute("ALTER FUNCTION dagbump.take_version SET lock_timeout = 0")
        holder = connect()
        holder.execute("SELECT FROM task_instance WHERE state = 'scheduled' FOR UPDATE")
        with closing(crowd.connect("dba")) as waiting, closing(crowd.connect("sampler")) as looking:
            bump = threading.Thread(target=lambda: dagbump.bump(waiting, [run]))
            bump.start()
            until_waiting_for_lock(fleet.connection, waiting)

            def seen() -> bool:
                crowd.sampler.look(looking)
                return bool(crowd.sampler.seen)

            until(seen, lambda: "pg_locks shows the wait")
            holder.rollback()
            bump.join()
        assert (len(crowd.waits.in_dagbump), len(crowd.sampler.seen), len(crowd.waits.in_gap)) == (1, 1, 0)

    def test_a_ti_that_goes_backwards(self, crowd: Crowd, broken: Connection) -> None:
        fleet = Fleet(broken)
        newer = fleet.version("dag_0", 2, tasks=["task_0"])
        crowd.settle()
        assert self.not_zero(crowd) == {}
        broken.execute(
            "UPDATE task_instance SET dag_version_id = (SELECT id FROM dag_version WHERE (dag_id, version_number) = "
            "('dag_0', 1)) WHERE id = (SELECT id FROM task_instance WHERE dag_version_id = %s LIMIT 1)",
            (newer,),
        )
        crowd.settle()
        assert self.not_zero(crowd) == {
            "TIs that went backwards": 1,
            "moves that differ from `dagbump.history`": 1,
        }

    def test_a_record_without_a_move(self, crowd: Crowd, broken: Connection) -> None:
        Fleet(broken).version("dag_0", 2, tasks=["task_0"])
        crowd.settle()
        broken.execute(
            "UPDATE dagbump.history SET bumped = bumped + 1 WHERE id = (SELECT id FROM dagbump.history LIMIT 1)"
        )
        assert self.not_zero(crowd) == {
            "moves that differ from `dagbump.history`": 1,
            "moves that differ from what callers were told": 1,
        }

    def test_a_write_that_is_lost(self, crowd: Crowd, broken: Connection) -> None:
        (key,) = broken.execute("SELECT dag_id, run_id, task_id FROM task_instance LIMIT 1").fetchall()
        crowd.write(broken, key, random.Random(1))  # noqa: S311  (no secret)
        broken.execute("UPDATE task_instance SET pid = 0 WHERE (dag_id, run_id, task_id) = (%s, %s, %s)", key)
        assert self.not_zero(crowd) == {"lost writes of the API server": 1}

    def test_a_deadlock(self, crowd: Crowd, broken: Connection, connect: Connect) -> None:
        tis = broken.execute("SELECT id FROM task_instance LIMIT 2").fetchall()
        lock = "SELECT FROM task_instance WHERE id = %s FOR UPDATE"
        first, second = crowd.connect("first", autocommit=False), connect()
        first.execute(lock, tis[0])
        second.execute(lock, tis[1])
        waiting = threading.Thread(target=lambda: second.execute(lock, tis[0]))
        waiting.start()
        until_waiting_for_lock(broken, second)
        with closing(first), pytest.raises(psycopg.errors.DeadlockDetected):
            first.execute(lock, tis[1])
        waiting.join()
        second.close()
        until(lambda: ledger.deadlocks(broken), lambda: "the server has counted it")
        assert self.not_zero(crowd) == {"deadlocks": 1}

    def test_a_verify_that_is_forgotten(self, crowd: Crowd, broken: Connection) -> None:
        Fleet(broken).version("dag_0", 2, tasks=["task_0", "a_new_task"])
        dagbump.bump(broken, caller_verifies=True, caller="a forgetful one")
        assert self.not_zero(crowd) == {"tasks that never got a TI": 4}

    def test_a_ti_that_stays_stale(self, crowd: Crowd, broken: Connection) -> None:
        """Two loops say that they have looked at the run, and have moved nothing."""
        Fleet(broken).version("dag_0", 2, tasks=["task_0"])
        answered = dagbump.bump(broken, dag_ids=["dag_0"], report_all=True).runs
        crowd.overdue.look(broken)
        for _ in range(2):
            assert not crowd.overdue.found
            crowd.overdue.look(broken)
            crowd.overdue.loop_is_over(time.monotonic(), answered[:1])
        crowd.overdue.look(broken)
        assert set(self.not_zero(crowd)) == {
            "TIs stale for longer than two loops",
            "TIs stale at the end",
        }


@pytest.mark.slow
@pytest.mark.proof
@pytest.mark.skipif(environments.number() >= (3, 4), reason="stock's statement is that of Airflow 3.2 and 3.3")
def test_everything_at_once(postgres: Server, dagbump_template: str) -> None:
    outcomes: dict[str, Outcome] = {}
    told: list[str] = []
    for who, seconds in SECONDS.items():
        with postgres.temporary_database(dagbump_template) as url:
            crowd = Crowd(url, VERSION_WORK.get(who, "dagbump"), people=who == ALL)
            crowd.populate()
            outcomes[who] = crowd.work(seconds)
            told += [f"{who}: {said}" for said in (*crowd.deadlocks, *crowd.waits.in_dagbump)]
    ours, stock = outcomes[ALL], outcomes[STOCK]
    proof.record(
        "Everything at once",
        'make prove ARGS="-k everything_at_once"',
        {
            "seconds": SECONDS[ALL],
            "who": f"{SCHEDULERS} schedulers, {WRITERS} writers of the API server, and one of each other",
            **dict(sorted(ours.happened.items())),
            **ours.zeros,
            **{f"{STOCK}, {SECONDS[STOCK]} s: {what}": stock.zeros[what] for what in ALSO_OF_STOCK},
            **{
                f"a write of the API server, {who}: {percentile}, ms": milliseconds
                for who, outcome in outcomes.items()
                for percentile, milliseconds in ledger.percentiles(outcome.seconds_of_writes)
            },
        },
    )
    for who in (ALL, ALONE):
        assert {what: count for what, count in outcomes[who].zeros.items() if count} == {}, told
