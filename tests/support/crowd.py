"""Lets everybody work on Airflow's tables at once, each on its own connections, for as long as a test says.

These are schedulers, the API server, the DAG processor, `airflow db clean`, a person with a lock, and dagbump's parts.
Airflow's part is SQL that locks and writes what Airflow does. Two things are simpler than in Airflow. A statement of
Airflow's that locks several rows takes them in the order of their ids, or skips locked ones, so that each deadlock and
each wait that is counted is due to the statement about versions. And verify_integrity is an INSERT of a TI for each
task of the version that has none, in the transaction of the bump.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

import dagbump
import psycopg
from dagbump import client
from dagbump import database as dagbump_database
from dagbump.installation import installer
from psycopg.types.json import Json
from sqlalchemy.engine import URL

from support import ledger, verify_integrity
from support.fleet import Fleet, serialized_dag
from support.ledger import EXAMINED, FINISHED, LIVE, Overdue, Sampler, TaskKey, Waits
from support.server import libpq
from support.waits import until

Connection = psycopg.Connection[Any]
VersionWork = Literal["dagbump", "stock", "none"]
Step = Callable[[Connection, random.Random], None]

DAGS = tuple(f"dag_{number}" for number in range(8))
RUNS_PER_DAG = 4
TASKS = tuple(f"task_{number}" for number in range(24))
SCHEDULERS, WRITERS = 4, 8
_MUST_HAPPEN = (
    *("heartbeats", "changes of state", "retries", "TIs cleared", "TIs deleted", "runs deleted", "locks of a person"),
    *("versions added", "versions rewritten in place", "versions deleted", "vacuums", "loops of schedulers"),
)
_PEOPLE_DO = ("bumps by hand", "repairs", "index builds and drops", "views of the page")
# State.unfinished of Airflow 3.3, as its UPDATE names it; NULL in an IN matches nothing.
_UNFINISHED = (
    "(NULL, 'scheduled', 'queued', 'running', 'restarting', 'up_for_retry', 'up_for_reschedule', 'deferred', "
    "'awaiting_input')"
)
_EXAMINE = f"""
    SELECT run.id FROM {EXAMINED} WHERE run.state = 'running' AND run.run_after <= now()
    ORDER BY run.last_scheduling_decision NULLS FIRST, run.run_after LIMIT 20
    FOR NO KEY UPDATE OF run SKIP LOCKED
"""
_SCHEDULE = f"""
    UPDATE task_instance SET state = CASE WHEN state IS NULL THEN 'scheduled' ELSE 'queued' END, updated_at = now()
    WHERE id IN (
        SELECT ti.id FROM dag_run AS run JOIN task_instance AS ti ON (ti.dag_id, ti.run_id) = (run.dag_id, run.run_id)
        WHERE run.id = ANY (%s) AND (ti.state IS NULL OR ti.state IN ('scheduled', 'up_for_retry')) AND {LIVE}
        LIMIT 20 FOR UPDATE OF ti SKIP LOCKED
    )
"""
_VERIFY = f"SELECT verify_integrity(run.id, latest.id) FROM {EXAMINED} WHERE run.id = %s"
_STOCK_LATEST = """
    SELECT run.dag_id, run.run_id, version.id FROM dag_run AS run JOIN dag_version AS version USING (dag_id)
    WHERE run.id = %s ORDER BY version.version_number DESC LIMIT 1
"""
_STOCK_USES = """
    SELECT dag_version_id FROM task_instance WHERE (dag_id, run_id, dag_version_id) = (%(dag)s, %(run)s, %(version)s)
    UNION
    SELECT dag_version_id FROM task_instance_history
    WHERE (dag_id, run_id, dag_version_id) = (%(dag)s, %(run)s, %(version)s)
"""
_STOCK_UPDATE = f"""
    UPDATE task_instance SET dag_version_id = %(version)s, updated_at = now()
    WHERE dag_id = %(dag)s AND run_id = %(run)s AND state IN {_UNFINISHED}
"""
_SOME_TASKS = f"""
    SELECT ti.dag_id, ti.run_id, ti.task_id FROM dag_run AS run
    JOIN task_instance AS ti ON (ti.dag_id, ti.run_id) = (run.dag_id, run.run_id)
    WHERE run.state = 'running' AND {LIVE} ORDER BY random() LIMIT 40
"""
_LOCK_TASK = f"""
    SELECT ti.id, ti.state, coalesce(ti.pid, 0) FROM task_instance AS ti
    WHERE (ti.dag_id, ti.run_id, ti.task_id) = (%s, %s, %s) AND {LIVE} FOR UPDATE
"""
_NEXT_STATE = {None: "queued", "scheduled": "queued", "queued": "running", "up_for_retry": "queued"}
_NO_REFERENCE = """
    NOT EXISTS (SELECT FROM task_instance WHERE dag_id = version.dag_id AND dag_version_id = version.id)
"""


@dataclass
class Outcome:
    """The counts of one run of the crowd (`ledger` says how they are counted)."""

    happened: Counter[str]
    seconds_of_writes: list[float]
    zeros: dict[str, int]


@dataclass
class Crowd:
    """A database, and who works on it.

    Attributes:
        url: of the database, as the owner of its tables.
        version_work: what a scheduler's loop does about versions.
        people: whether a DBA, a repair, the page, and builds of the optional index are there too.
        happened: how many changes the actors have committed, by kind.
        written: how often the counter of each live TI was raised, by its task.
        answered: how many TIs were moved, by the answers of committed calls of `bump`, by caller.
    """

    url: URL
    version_work: VersionWork = "dagbump"
    people: bool = True
    waits: Waits = field(default_factory=Waits)
    overdue: Overdue = field(default_factory=Overdue)
    sampler: Sampler = field(default_factory=Sampler)
    happened: Counter[str] = field(default_factory=Counter)
    written: Counter[TaskKey] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    seconds_of_writes: list[float] = field(default_factory=list)
    deadlocks: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _tally: threading.Lock = field(default_factory=threading.Lock)

    def connect(self, name: str, *, autocommit: bool = True) -> Connection:
        connection: Connection = psycopg.connect(
            libpq(self.url), application_name=name, autocommit=autocommit, options=ledger.TELLS_ITS_WAITS
        )
        self.waits.listen(connection)
        return connection

    def populate(self) -> None:
        """Make the DAGs and runs, and open the book."""
        with closing(self.connect("setup")) as connection:
            verify_integrity.install(connection)
            fleet = Fleet(connection)
            for dag_id in DAGS:
                fleet.dag(dag_id)
                fleet.version(dag_id, 1, tasks=TASKS[:12])
                for _ in range(RUNS_PER_DAG):
                    self._start_run(fleet, dag_id)
            connection.execute("UPDATE task_instance SET state = 'success' WHERE task_id IN ('task_0', 'task_1')")
            ledger.open_book(connection)

    def work(self, seconds: float) -> Outcome:
        """Let all of them work for so many seconds, then run a few loops alone, and return the counts."""
        actors = [threading.Thread(target=self._repeat, args=actor) for actor in self._actors()]
        for actor in actors:
            actor.start()
        self._over.wait(seconds)
        until(lambda: self.failures or self._enough(), lambda: f"all has happened: {self.happened}", patience=120)
        self._over.set()
        for actor in actors:
            actor.join()
        assert not self.failures, self.failures
        self.settle()
        return self.outcome()

    def _enough(self) -> bool:
        """Return whether each kind of work has been done. A busy machine takes longer for that."""
        return all(self.happened[what] for what in (*_MUST_HAPPEN, *(_PEOPLE_DO if self.people else ())))

    def settle(self) -> None:
        """Run a few loops alone, as they come when the load is over.

        All look for missing tasks. If every other loop did, some runs might be examined only by the ones in between.
        """
        with closing(self.connect("scheduler 0")) as connection:
            for _ in range(6):
                self.loop(connection, looks_for_missing_tasks=True)
            self.overdue.look(connection)

    def outcome(self) -> Outcome:
        with closing(self.connect("outcome")) as connection:
            zeros = {
                "deadlocks": ledger.deadlocks(connection),
                "statements about versions that waited for a row lock": len(
                    self.waits.elsewhere if self.version_work == "stock" else self.waits.in_dagbump
                ),
                "the same, for 50 ms, in pg_locks": len(self.sampler.seen),
                "TIs that went backwards": ledger.backwards(connection),
                "lost writes of the API server": ledger.writes_lost(connection, self.written),
                "moves that differ from `dagbump.history`": ledger.moves_unlike_history(connection),
                "moves that differ from what callers were told": ledger.answers_unlike_history(
                    connection, self.answered
                ),
                "tasks that never got a TI": ledger.missing_tasks(connection),
                "TIs stale for longer than two loops": len(self.overdue.found),
                "TIs stale at the end": ledger.stale(connection),
            }
            self.happened["TIs moved"] = ledger.moves(connection)
            self.happened["looks at what is stale"] = self.overdue.looks
        return Outcome(self.happened, self.seconds_of_writes, zeros)

    def _actors(self) -> Iterable[tuple[str, Step, float]]:
        """Yield who works: a name, a step, and the seconds between two steps."""
        yield from ((f"scheduler {number}", self._schedule, 0.05) for number in range(1, SCHEDULERS + 1))
        yield from ((f"api server {number}", self._write, 0.005) for number in range(1, WRITERS + 1))
        yield "api server, clear", self._clear, 0.05
        yield "dag processor", self._write_dag, 0.15
        yield "scheduler, runs", self._replace_run, 0.3
        yield "db clean", self._clean, 0.5
        yield "a person", self._hold, 0.05
        yield "vacuum", self._vacuum, 0.3
        yield "watch", self._watch, 0.1
        yield "sampler", lambda connection, _: self.sampler.look(connection), 0.02
        if self.people:
            yield "dba", self._bump_by_hand, 0.1
            yield "repair", self._repair, 0.3
            yield "index", self._index, 0.5
            yield "page", self._read_page, 0.2

    def _repeat(self, name: str, step: Step, pause: float) -> None:
        chance = random.Random(name)  # noqa: S311  (no secret)
        connection = self.connect(name)
        try:
            while not self._over.wait(pause * chance.uniform(0.5, 1.5)):
                try:
                    step(connection, chance)
                except psycopg.errors.LockNotAvailable:  # NOWAIT: Airflow's DAG processor comes back later too
                    continue
                except psycopg.errors.DeadlockDetected as error:
                    self.deadlocks.append(f"{name}: {error}")
        except Exception as error:  # noqa: BLE001  (asserted by `work`)
            self.failures.append(f"{name}: {type(error).__name__}: {error}")
        finally:
            connection.close()

    def _count(self, what: str, times: int = 1) -> None:
        with self._tally:
            self.happened[what] += times

    # Schedulers

    def _schedule(self, connection: Connection, chance: random.Random) -> None:
        self.loop(connection, looks_for_missing_tasks=chance.random() < 0.1)

    def loop(self, connection: Connection, *, looks_for_missing_tasks: bool) -> None:
        """Do a scheduler's loop: examine runs, deal with their versions, schedule some of their TIs, commit."""
        began = time.monotonic()
        answered: tuple[dagbump.RunBump, ...] = ()
        with connection.transaction():
            runs = [run for (run,) in connection.execute(_EXAMINE.encode())]
            if self.version_work == "dagbump":
                answered = self._bump(connection, runs, looks_for_missing_tasks=looks_for_missing_tasks)
            elif self.version_work == "stock":
                for run in runs:
                    self._move_as_stock(connection, run)
            connection.execute(_SCHEDULE.encode(), (runs,))
            connection.execute("UPDATE dag_run SET last_scheduling_decision = now() WHERE id = ANY (%s)", (runs,))
        self.overdue.loop_is_over(began, answered)
        with self._tally:
            self.happened["loops of schedulers"] += 1
            self.happened["TIs left because they were locked"] += sum(row.locked for row in answered)
            self.happened["runs verified"] += sum(row.needs_verify for row in answered)
            self.answered[connection.info.parameter_status("application_name") or ""] += sum(
                row.bumped for row in answered
            )

    def _bump(
        self, connection: Connection, runs: list[int], *, looks_for_missing_tasks: bool
    ) -> tuple[dagbump.RunBump, ...]:
        caller = connection.info.parameter_status("application_name")
        answered = dagbump.bump(connection, runs, caller_verifies=True, report_all=True, caller=caller).runs
        for row in answered:
            if row.needs_verify:
                self.verify(connection, row.dag_run_id)
        if looks_for_missing_tasks:
            for scope in client.verify_scope(connection, runs):
                if scope.missing_tasks and self._take_latest(connection, scope.dag_run_id):
                    self.verify(connection, scope.dag_run_id)
        return answered

    def _take_latest(self, connection: Connection, run: int) -> bool:
        """Lock the version that the new TIs will refer to, as the plugin does; say whether it was free."""
        taken = connection.execute(
            "SELECT FROM dag_version WHERE id = (SELECT version.id FROM dag_version AS version JOIN dag_run AS run "
            "USING (dag_id) WHERE run.id = %s ORDER BY version_number DESC LIMIT 1) FOR KEY SHARE SKIP LOCKED",
            (run,),
        )
        return taken.rowcount == 1

    def verify(self, connection: Connection, run: int) -> None:
        """Do what verify_integrity does: make a TI for each task of the latest version that has none."""
        connection.execute(_VERIFY.encode(), (run,))

    def _move_as_stock(self, connection: Connection, run: int) -> None:
        row = connection.execute(_STOCK_LATEST, (run,)).fetchone()
        assert row is not None
        names = dict(zip(("dag", "run", "version"), row, strict=True))
        if connection.execute(_STOCK_USES, names).fetchone() is None:
            connection.execute(_STOCK_UPDATE.encode(), names)
            self.verify(connection, run)

    def _replace_run(self, connection: Connection, _: random.Random) -> None:
        """End a run, and begin another one of the same DAG."""
        with connection.transaction():
            run = connection.execute(
                "SELECT id, dag_id, run_id FROM dag_run WHERE state = 'running' ORDER BY random() LIMIT 1 "
                "FOR NO KEY UPDATE SKIP LOCKED"
            ).fetchone()
            if run is None:
                return
            id_, dag_id, run_id = run
            connection.execute(
                f"SELECT id FROM task_instance AS ti WHERE (dag_id, run_id) = (%s, %s) AND {LIVE} "
                "ORDER BY id FOR UPDATE".encode(),
                (dag_id, run_id),
            )
            connection.execute(
                f"UPDATE task_instance AS ti SET state = 'success' WHERE (dag_id, run_id) = (%s, %s) AND {LIVE}"
                "".encode(),
                (dag_id, run_id),
            )
            connection.execute("UPDATE dag_run SET state = 'success' WHERE id = %s", (id_,))
            self._start_run(Fleet(connection), dag_id)
        self._count("runs ended and begun")

    def _start_run(self, fleet: Fleet, dag_id: str) -> None:
        number = fleet.execute("SELECT nextval(pg_get_serial_sequence('dag_run', 'id'))").fetchone()
        run = fleet.run(dag_id, run_id=f"run_{number[0] if number else 0}")
        self.verify(fleet.connection, run)

    # The API server

    def _write(self, connection: Connection, chance: random.Random) -> None:
        for key in connection.execute(_SOME_TASKS.encode()).fetchall():
            if self._over.wait(0.005 * chance.random()):
                return
            began = time.monotonic()
            self.write(connection, key, chance)
            self.seconds_of_writes.append(time.monotonic() - began)

    def write(self, connection: Connection, key: TaskKey, chance: random.Random) -> None:
        """Lock a TI, then send its heartbeat, change its state, or end a try; each raises its counter by one."""
        with connection.transaction():
            row = connection.execute(_LOCK_TASK.encode(), key).fetchone()
            if row is None:
                return
            ti, state, counter = row
            kind = "heartbeats" if chance.random() < 0.4 else "retries" if state == "failed" else "changes of state"
            connection.execute("UPDATE task_instance SET pid = %s WHERE id = %s", (counter + 1, ti))
            if kind == "heartbeats":
                connection.execute("UPDATE task_instance SET last_heartbeat_at = now() WHERE id = %s", (ti,))
            elif kind == "retries":
                self._next_try(connection, [ti], "up_for_retry")
            elif state not in ("success", "skipped", "upstream_failed", "removed"):
                after = _NEXT_STATE.get(state) or chance.choice(["success", "failed", "failed"])
                connection.execute("UPDATE task_instance SET state = %s, updated_at = now() WHERE id = %s", (after, ti))
        with self._tally:
            self.written[key] += 1
            self.happened[kind] += 1

    def _clear(self, connection: Connection, chance: random.Random) -> None:
        """Clear several finished TIs of a run: each gets a new id, and keeps its version."""
        with connection.transaction():
            row = connection.execute(
                "SELECT id, dag_id, run_id FROM dag_run WHERE state = 'running' ORDER BY random() LIMIT 1"
            ).fetchone()
            if row is None:
                return
            run, dag_id, run_id = row
            if chance.random() < 0.5:
                connection.execute("UPDATE dag_run SET clear_number = clear_number + 1 WHERE id = %s", (run,))
            finished = connection.execute(
                f"SELECT ti.id FROM task_instance AS ti WHERE (dag_id, run_id) = (%s, %s) AND state IN {FINISHED} "
                f"AND {LIVE} ORDER BY ti.id LIMIT 8 FOR UPDATE".encode(),
                (dag_id, run_id),
            ).fetchall()
            self._next_try(connection, [ti for (ti,) in finished], None)
        self._count("TIs cleared", len(finished))

    def _next_try(self, connection: Connection, tis: list[UUID], state: str | None) -> None:
        """Keep the tries of TIs as past ones, and go on under new ids; the TIs are locked."""
        for statement in (_ARCHIVE, _LIVE_AGAIN) if LIVE != "TRUE" else (_IN_HISTORY, _NEW_ID):
            connection.execute(statement, {"tis": tis, "state": state})

    # The DAG processor

    def _write_dag(self, connection: Connection, chance: random.Random) -> None:
        """Write a changed DAG: in place as long as no TI refers to the latest version, else as a new version."""
        dag_id = chance.choice(DAGS)
        for _ in range(chance.choice([1, 1, 2, 3])):
            tasks = [*TASKS[:8], *chance.sample(TASKS[8:], 8)]
            with connection.transaction():
                version, number, free = self._latest_of(connection, dag_id)
                if free:
                    connection.execute("UPDATE dag_version SET last_updated = now() WHERE id = %s", (version,))
                    connection.execute(
                        "UPDATE serialized_dag SET data = %s, last_updated = now() WHERE dag_version_id = %s",
                        (Json(serialized_dag(tasks)), version),
                    )
                else:
                    Fleet(connection).version(dag_id, number + 1, tasks=tasks)
            self._count("versions rewritten in place" if free else "versions added")

    def _latest_of(self, connection: Connection, dag_id: str) -> tuple[UUID, int, bool]:
        row = connection.execute(
            f"SELECT version.id, version.version_number, {_NO_REFERENCE} FROM dag_version AS version "
            "WHERE version.dag_id = %s ORDER BY version.version_number DESC LIMIT 1 FOR NO KEY UPDATE NOWAIT".encode(),
            (dag_id,),
        ).fetchone()
        assert row is not None
        version, number, free = row
        return version, number, free

    # Everybody else

    def _clean(self, connection: Connection, _: random.Random) -> None:
        """Delete old TIs, then old runs, then versions that nothing refers to, each in its own transaction."""
        with connection.transaction():
            old = connection.execute(
                "SELECT ti.id FROM task_instance AS ti JOIN dag_run AS run USING (dag_id, run_id) "
                "WHERE run.state = 'success' ORDER BY ti.id FOR UPDATE OF ti"
            ).fetchall()
            connection.execute("DELETE FROM task_instance WHERE id = ANY (%s)", ([ti for (ti,) in old],))
        runs = connection.execute(
            "DELETE FROM dag_run AS run WHERE state = 'success' AND NOT EXISTS ("
            "SELECT FROM task_instance AS ti WHERE (ti.dag_id, ti.run_id) = (run.dag_id, run.run_id))"
        ).rowcount
        try:
            versions = connection.execute(
                f"DELETE FROM dag_version AS version WHERE {_NO_REFERENCE} AND version_number < ("
                "SELECT max(latest.version_number) FROM dag_version AS latest WHERE latest.dag_id = version.dag_id"
                ")".encode()
            ).rowcount
        except (
            psycopg.IntegrityError
        ):  # a scheduler has just moved TIs to one of them: from Airflow 3.1 on it fails too
            versions = 0
        self._count("TIs deleted", len(old))
        self._count("runs deleted", runs)
        self._count("versions deleted", versions)

    def _hold(self, connection: Connection, chance: random.Random) -> None:
        """Hold a few TIs, or the latest version of a DAG, for a moment."""
        with connection.transaction():
            if chance.random() < 0.8:
                connection.execute(
                    "SELECT id FROM task_instance WHERE id IN (SELECT id FROM task_instance ORDER BY random() LIMIT 3) "
                    "ORDER BY id FOR UPDATE"
                )
            else:
                version, *_ = self._latest_of(connection, chance.choice(DAGS))
                connection.execute("UPDATE dag_version SET last_updated = now() WHERE id = %s", (version,))
                connection.execute("SELECT FROM dag_version WHERE id = %s FOR UPDATE NOWAIT", (version,))
            self._over.wait(0.02)
        self._count("locks of a person")

    def _vacuum(self, connection: Connection, chance: random.Random) -> None:
        # ANALYZE waits for the table with a snapshot, for which a build of an index waits. PostgreSQL ends the build
        # and counts a deadlock; dagbump upgrade tries again.
        table = chance.choice(
            ["task_instance", "(ANALYZE) dag_run", "(ANALYZE) dag_version", "(ANALYZE) serialized_dag"]
        )
        connection.execute(f"VACUUM {table}".encode())
        self._count("vacuums")

    def _watch(self, connection: Connection, _: random.Random) -> None:
        if self.version_work == "dagbump":
            self.overdue.look(connection)

    def _bump_by_hand(self, connection: Connection, _: random.Random) -> None:
        moved = dagbump.bump(connection, caller="dba").bumped
        with self._tally:
            self.answered["dba"] += moved
            self.happened["bumps by hand"] += 1

    def _repair(self, connection: Connection, _: random.Random) -> None:
        connection.execute("CALL dagbump.repair(batch_size => 20)")
        self._count("repairs")

    def _index(self, _connection: Connection, _: random.Random) -> None:
        """Build the optional index as `dagbump upgrade --with-index` does, and drop it again."""
        engine = dagbump_database.create_engine(libpq(self.url))
        installer.upgrade(engine, installer.NEWEST_INDEX)
        installer.downgrade(engine, "index@base")
        engine.dispose()
        self._count("index builds and drops")

    def _read_page(self, connection: Connection, _: random.Random) -> None:
        """Run what the page in Airflow's UI runs."""
        runs = [row.dag_run_id for row in client.running(connection)]
        client.versions_of_runs(connection, runs[:50])
        client.preview(connection)
        client.holders(connection)
        client.versions(connection)
        client.history(connection)
        self._count("views of the page")


_IN_HISTORY = """
    INSERT INTO task_instance_history SELECT past.*
    FROM task_instance AS ti
    CROSS JOIN LATERAL jsonb_populate_record(
        NULL::task_instance_history, to_jsonb(ti) || jsonb_build_object('task_instance_id', ti.id)
    ) AS past
    WHERE ti.id = ANY (%(tis)s)
"""
_NEW_ID = """
    UPDATE task_instance SET id = gen_random_uuid(), try_number = try_number + 1, state = %(state)s, updated_at = now()
    WHERE id = ANY (%(tis)s)
"""
_ARCHIVE = "UPDATE task_instance SET working_set = NULL, archived_reason = 'retry' WHERE id = ANY (%(tis)s)"
_LIVE_AGAIN = """
    INSERT INTO task_instance SELECT live.*
    FROM task_instance AS ti
    CROSS JOIN LATERAL jsonb_populate_record(ti, jsonb_build_object(
        'id', gen_random_uuid(), 'try_number', ti.try_number + 1, 'state', %(state)s::text, 'working_set', TRUE,
        'archived_reason', NULL
    )) AS live
    WHERE ti.id = ANY (%(tis)s)
"""
