"""Loops like a scheduler's, writers and `dagbump run`, while the servers of a cluster change places.

Triggers in the database record each update that must not happen, in the transaction of the update. So a record is lost
only together with its update.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagbump
import psycopg
import sqlalchemy as sa
from dagbump import database
from dagbump.errors import DagbumpError
from dagbump.installation import installer
from psycopg.types.json import Json
from sqlalchemy.orm import Session

from support import airflow_tables, ledger, replication, verify_integrity
from support.fleet import Fleet, serialized_dag
from support.processes import DAGBUMP, RunningProcess, running
from support.replication import Cluster
from support.waits import until

DATABASE = "airflow"
_LOOPS = 2
_DAGS = 6
_RUNS_PER_DAG = 5
_PAUSE_SECONDS = 0.02
_PASSING = (sa.exc.OperationalError, sa.exc.InternalError, psycopg.OperationalError, DagbumpError)
_BUMPS = "a scheduler"  # application_name of the loops

_RECORD = f"""
    CREATE TABLE wrong (what text, task text, at timestamptz DEFAULT clock_timestamp());
    CREATE TABLE ledger (writer text, number integer);
    CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF current_setting('application_name') IN ('{_BUMPS}', 'dagbump') THEN
            IF to_jsonb(new) - '{{dag_version_id,updated_at}}'::text[]
                <> to_jsonb(old) - '{{dag_version_id,updated_at}}'::text[] THEN
                INSERT INTO wrong VALUES ('changed more than the version', new.id);
            END IF;
            IF old.state IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed') THEN
                INSERT INTO wrong VALUES ('moved, although it has ended', new.id);
            END IF;
        END IF;
        RETURN new;
    END $$;
    CREATE TRIGGER judge BEFORE UPDATE ON task_instance FOR EACH ROW EXECUTE FUNCTION judge();
"""
_NEXT_STATE = """
    UPDATE task_instance SET state = CASE state
        WHEN 'queued' THEN 'running' WHEN 'running' THEN 'success' ELSE 'queued'
    END, updated_at = now()
    WHERE id = (
        SELECT id FROM task_instance WHERE state IS DISTINCT FROM 'success'
        ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED
    )
"""


@contextmanager
def installed_cluster(home: Path) -> Iterator[Cluster]:
    """Start a primary and a standby with Airflow's tables and dagbump in them."""
    with replication.cluster() as cluster:
        cluster.primary.execute(f"CREATE DATABASE {DATABASE}")
        airflow_tables.make(sa.engine.make_url(cluster.primary.database(DATABASE)), home)
        installer.upgrade(database.create_engine(cluster.url(DATABASE)))
        yield cluster


@dataclass
class Loop:
    """Repeats some work, each time in a new transaction, until it is stopped.

    Attributes:
        name: who does the work.
        work: one transaction, on its own connection or session.
        passing: the errors of a lost server.
        pause: seconds between two transactions.
        successes: when its transactions were committed.
        failures: when its transactions failed.
        last_error: the message of the last failure.
        unexpected: an error that is not about a lost server.
    """

    name: str
    work: Callable[[int], None]
    passing: tuple[type[BaseException], ...] = _PASSING
    pause: float = _PAUSE_SECONDS
    successes: list[float] = field(default_factory=list)
    failures: list[float] = field(default_factory=list)
    last_error: str = ""
    unexpected: BaseException | None = None

    def go_on(self, stop: threading.Event) -> None:
        number = 0
        while not stop.wait(self.pause):
            number += 1
            try:
                self.work(number)
            except self.passing as error:
                self.failures.append(time.monotonic())
                self.last_error = str(error)
            except BaseException as error:
                self.unexpected = error
                raise
            else:
                self.successes.append(time.monotonic())

    def first_success(self, after: float) -> float:
        """Return when the first transaction after that moment was committed; 0 if none was."""
        return next((at for at in self.successes if at > after), 0.0)


@dataclass(frozen=True)
class Change:
    """The cost of one switchover, or of one kill of the primary.

    Attributes:
        kind: "switchover" or "kill".
        failed_loops: the most loops of one scheduler that failed after the new primary took writes.
        loops_back_after: seconds from that moment until the last of the schedulers' loops worked.
        run_back_after: seconds from that moment until `dagbump run` worked.
        lost: acknowledged commits that the new primary does not have.
    """

    kind: str
    failed_loops: int
    loops_back_after: float
    run_back_after: float
    lost: int


class Trial:
    """The loops, the writers and `dagbump run` on one cluster, and what becomes of them."""

    def __init__(self, cluster: Cluster) -> None:
        """Make the fleet; nothing runs yet."""
        self._cluster = cluster
        self._stop_writing = threading.Event()
        self._stop = threading.Event()
        self._acknowledged: dict[str, set[int]] = {}
        self.changes: list[Change] = []
        with self.connection() as connection:
            connection.execute(_RECORD.encode())
            ledger.open_book(connection)
            verify_integrity.install(connection)
            fleet = Fleet(connection)
            for number in range(_DAGS):
                dag_id = f"dag_{number}"
                fleet.dag(dag_id)
                version = fleet.version(dag_id, 1, tasks=["task_1"])
                for _ in range(_RUNS_PER_DAG):
                    fleet.ti(fleet.run(dag_id), version, None, task_id="task_1")
        cluster.catch_up()

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(self._cluster.url(DATABASE), autocommit=True) as connection:
            yield connection

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Let everything run; at the end, writers stop first."""
        places = "&".join(f"host=127.0.0.1:{node.port}" for node in self._cluster.nodes)
        url = f"postgresql+psycopg://postgres@/{DATABASE}?{places}&target_session_attrs=read-write"
        with ExitStack() as stack:
            engine = sa.create_engine(url, pool_pre_ping=True, connect_args={"application_name": _BUMPS})
            stack.callback(engine.dispose)
            self.loops = [
                Loop(f"loop {number}", self._recorded(f"loop {number}", engine, _schedule)) for number in range(_LOOPS)
            ]
            writing = sa.create_engine(url, pool_pre_ping=True, connect_args={"application_name": "a writer"})
            stack.callback(writing.dispose)
            self.writers = [
                Loop("versions", self._recorded("versions", writing, _add_version)),
                Loop("states", self._recorded("states", writing, _next_state)),
            ]
            self.run: RunningProcess = stack.enter_context(
                running(*DAGBUMP, "run", "--interval", "0.1", DAGBUMP_URL=self._cluster.url(DATABASE))
            )
            self.run.until_printed("one safe bump")
            started = [(loop, self._stop) for loop in self.loops]
            started += [(writer, self._stop_writing) for writer in self.writers]
            threads = [threading.Thread(target=loop.go_on, args=(stop,)) for loop, stop in started]
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                self._stop_writing.set()
                self._stop.set()
                for thread in threads:
                    thread.join()

    def _recorded(self, name: str, engine: sa.engine.Engine, work: Callable[[Session], None]) -> Callable[[int], None]:
        acknowledged = self._acknowledged.setdefault(name, set())

        def once(number: int) -> None:
            with Session(engine) as session:
                work(session)
                session.execute(sa.text("INSERT INTO ledger VALUES (:name, :number)"), {"name": name, "number": number})
                session.commit()
            acknowledged.add(number)

        return once

    def change(self, kind: str, take_over: Callable[[], None]) -> None:
        """Let the standby take over, wait until everybody works again, and bring the other server back."""
        everybody = [*self.loops, *self.writers]
        began = time.monotonic()
        until(lambda: all(loop.first_success(began) for loop in everybody), lambda: f"all work: {self._told()}")
        connected = self.run.count("connected again")
        take_over()
        writable = self._cluster.writable_since
        until(lambda: self.run.count("connected again") > connected, lambda: "dagbump run works again")
        run_back = time.monotonic() - writable
        until(lambda: all(loop.first_success(writable) for loop in everybody), lambda: f"all work: {self._told()}")
        self.changes.append(
            Change(
                kind,
                max(sum(at > writable for at in loop.failures) for loop in self.loops),
                max(loop.first_success(writable) for loop in self.loops) - writable,
                run_back,
                self._lost(),
            )
        )
        self._cluster.rejoin()

    def _told(self) -> str:
        return "; ".join(f"{loop.name}: {loop.last_error}" for loop in [*self.loops, *self.writers])

    def _lost(self) -> int:
        """Return how many commits were acknowledged and are not there, and forget them."""
        lost = 0
        for name, numbers in self._acknowledged.items():
            known = set(numbers)
            with self.connection() as connection:
                rows = connection.execute("SELECT number FROM ledger WHERE writer = %s", (name,)).fetchall()
            gone = known - {number for (number,) in rows}
            numbers.difference_update(gone)
            lost += len(gone)
        return lost

    def settle(self) -> None:
        """Stop the writers, and wait until the loops have nothing left to do."""
        self._stop_writing.set()
        with self.connection() as connection:
            until(
                lambda: not [row for row in dagbump.preview(connection) if row.verdict != "missing_tasks"],
                lambda: "nothing is stale",
            )

    def wrong_updates(self) -> list[tuple[Any, ...]]:
        """Return what the triggers have recorded."""
        with self.connection() as connection:
            backwards = ledger.backwards(connection)
            found = connection.execute("SELECT what, task FROM wrong ORDER BY at").fetchall()
        return found + ([("moved backwards", backwards)] if backwards else [])

    def wrong(self) -> list[tuple[Any, ...]]:
        """Return what must not have happened: wrong updates, and runs whose verify_integrity was lost."""
        found = self.wrong_updates()
        with self.connection() as connection:
            found += [("verify lost", row.run_id, row.missing_tasks) for row in dagbump.preview(connection)]
        return found + [("unexpected", loop.name, loop.unexpected) for loop in self.loops if loop.unexpected]


def _schedule(session: Session) -> None:
    """Do what a scheduler with the plugin does in a loop: lock its runs, bump, verify what is due."""
    locked = sa.text("SELECT id FROM dag_run WHERE state = 'running' ORDER BY random() LIMIT 20 FOR UPDATE SKIP LOCKED")
    ids = session.execute(locked).scalars().all()
    result = dagbump.bump(session, ids, caller_verifies=True, report_all=True, caller=_BUMPS)
    for run in result.needs_verify:
        verify = sa.text("SELECT verify_integrity(:run, :version)")
        session.execute(verify, {"run": run.dag_run_id, "version": run.dag_version_id})


def _add_version(session: Session) -> None:
    """Add a version with one more task to a DAG."""
    driver: Any = session.connection().connection.driver_connection
    dag_id = f"dag_{random.randrange(_DAGS)}"  # noqa: S311  (nothing secret)
    fleet = Fleet(driver)
    version = fleet.copy_latest_version(dag_id)
    ((number,),) = driver.execute("SELECT version_number FROM dag_version WHERE id = %s", (version,)).fetchall()
    tasks = [f"task_{task}" for task in range(1, number + 1)]
    driver.execute(
        "UPDATE serialized_dag SET data = %s WHERE dag_version_id = %s", (Json(serialized_dag(tasks)), version)
    )


def _next_state(session: Session) -> None:
    session.execute(sa.text(_NEXT_STATE))
