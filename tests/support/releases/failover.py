"""Two real schedulers and Airflow's own writers, while the servers of a cluster change places.

A scheduler that ends is started again, as a supervisor does. Triggers record what the schedulers commit.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy.engine import URL

from support import ledger
from support.failover import DATABASE, Loop
from support.releases import environments
from support.releases.deployment import Component, Deployed, configure, free_port
from support.releases.worker import Worker, WorkerError, start_worker
from support.replication import Cluster
from support.waits import until

SCHEDULERS = 2
_DAGS = 4
_RUNS_PER_DAG = 10
_LANDING_SECONDS = 1.0
_LOOK_SECONDS = 0.02
_ROUNDS = 3  # a look-up that has begun, one that finds what there is, and one that finds what the second has made due
_PATIENCE_SECONDS = 90.0  # a scheduler that has ended starts again

# The tasks wait in a pool without slots. So no executor is needed, and only the writer changes what has been scheduled.
_POOL = "no_slots"
_DAG_FILE = f"""\
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG


def task(task_id):
    return BashOperator(task_id=task_id, bash_command="true", pool="{_POOL}")


with DAG("{{dag_id}}", schedule=None):
    task("keeps_the_run_running")
    task("task_0") >> [task(f"task_{{{{number}}}}") for number in range(1, {{tasks}})]
"""
_RECORD = f"""
    INSERT INTO slot_pool (pool, slots, include_deferred) VALUES ('{_POOL}', 0, FALSE);
    CREATE TABLE ledger (number integer);
    CREATE TABLE moved_after_end (ti uuid);
    CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF old.state = new.state AND old.state IN {ledger.FINISHED} THEN
            INSERT INTO public.moved_after_end VALUES (new.id);
        END IF;
        RETURN new;
    END $$;
    CREATE TRIGGER judge BEFORE UPDATE ON task_instance FOR EACH ROW
    WHEN (old.dag_version_id IS DISTINCT FROM new.dag_version_id) EXECUTE FUNCTION judge();
    CREATE TABLE loops (
        id uuid DEFAULT gen_random_uuid(),
        scheduler text DEFAULT current_setting('application_name'),
        at double precision DEFAULT extract(epoch FROM clock_timestamp())
    );
    CREATE FUNCTION loop_works() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO public.loops DEFAULT VALUES;
        RETURN NULL;
    END $$;
    CREATE TRIGGER loop_works AFTER UPDATE ON dag_run FOR EACH STATEMENT EXECUTE FUNCTION loop_works();
"""
_NEXT_STATE = f"""
    UPDATE task_instance SET state = CASE state WHEN 'scheduled' THEN 'running' ELSE 'success' END, updated_at = now()
    WHERE id = (
        SELECT id FROM task_instance AS ti
        WHERE state IN ('scheduled', 'running') AND task_id <> 'keeps_the_run_running' AND {ledger.LIVE}
        ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED
    )
"""


@dataclass(frozen=True)
class Change:
    """The cost of one switchover, or of one kill of the primary.

    Attributes:
        kind: "switchover" or "kill".
        ended: how many schedulers' processes ended because of it.
        back_after: seconds from when the new primary took writes until both schedulers had committed a loop.
        lost: commits that a client has seen on the old primary, and that the new one does not have, by who made them.
    """

    kind: str
    ended: int
    back_after: float
    lost: dict[str, int]


class Supervised:
    """A scheduler that is started again whenever it ends.

    Attributes:
        name: the application_name of its sessions.
        components: its processes, one after the other.
    """

    def __init__(self, deployed: Deployed, name: str, *, dagbump: bool) -> None:
        self.name = name
        self.components: list[Component] = []
        self._deployed = deployed
        self._environment = {"PGAPPNAME": name, "AIRFLOW__DAGBUMP__ENABLED": str(dagbump)}

    def keep_running(self, stop: threading.Event) -> None:
        while not stop.is_set():
            with self._deployed.component("scheduler", "--skip-serve-logs", **self._environment) as component:
                self.components.append(component)
                while component.process.poll() is None and not stop.wait(_LOOK_SECONDS):
                    pass

    def logged(self, text: str) -> list[str]:
        return [line for component in self.components for line in component.logged(text)]


class Trial:
    """The schedulers and the writers on one cluster, and what becomes of them."""

    def __init__(self, cluster: Cluster, deployed: Deployed, worker: Worker, *, dagbump: bool) -> None:
        """Make the runs; nothing goes on yet."""
        self._cluster = cluster
        self._worker = worker
        self._seen: dict[str, set[UUID | int]] = {"versions": set(), "runs": set(), "states": set(), "loops": set()}
        self._runs = 0
        self.changes: list[Change] = []
        self.schedulers = [
            Supervised(deployed, f"scheduler {number}", dagbump=dagbump) for number in range(1, SCHEDULERS + 1)
        ]
        passing = (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction, WorkerError)
        self.writers = [
            Loop("versions", self._land, passing=passing, pause=_LANDING_SECONDS),
            Loop("states", self._next_state, passing=passing),
            Loop("observer", self._see_loops, passing=passing),
        ]
        with self.connection() as connection:
            connection.execute(_RECORD.encode())
            ledger.open_book(connection)
        for number in range(_DAGS):
            self._write(f"dag_{number}", tasks=2)
            for _ in range(_RUNS_PER_DAG):
                self._start_run(f"dag_{number}")
        cluster.catch_up()

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(self._cluster.url(DATABASE), autocommit=True) as connection:
            yield connection

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.connection() as connection:
            return connection.execute(query.encode(), parameters).fetchall()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Let everything run; `settle` stops the writers."""
        self._stop, self._stop_writing = threading.Event(), threading.Event()
        schedulers = [threading.Thread(target=each.keep_running, args=(self._stop,)) for each in self.schedulers]
        self._writing = [threading.Thread(target=each.go_on, args=(self._stop_writing,)) for each in self.writers]
        with ExitStack() as stack:
            for thread in [*schedulers, *self._writing]:
                thread.start()
                stack.callback(thread.join)
            stack.callback(self._stop.set)
            stack.callback(self._stop_writing.set)
            yield

    def change(self, kind: str, take_over: Callable[[], None]) -> None:
        """Let the standby take over, wait until everybody works again, and bring the other server back."""
        self._until_all_work(time.time())
        before = self._processes()
        take_over()
        writable = time.time() - (time.monotonic() - self._cluster.writable_since)
        back = self._until_all_work(writable)
        self.changes.append(Change(kind, self._processes() - before, back - writable, self._lost()))
        self._cluster.rejoin()

    def settle(self) -> None:
        """Stop the writers, and wait until each run has been scheduled some times."""
        self._stop_writing.set()
        for thread in self._writing:
            thread.join()
        for _ in range(_ROUNDS):
            self._until_scheduled()

    def _until_scheduled(self) -> None:
        ((since,),) = self.rows("SELECT clock_timestamp()")
        waits = "SELECT count(*) FROM dag_run WHERE state = 'running' AND last_scheduling_decision <= %s"
        until(lambda: self.rows(waits, since) == [(0,)], lambda: "each run has been scheduled", _PATIENCE_SECONDS)

    def figures(self) -> dict[str, int]:
        """Return what must be zero, and how much has been done."""
        with self.connection() as connection:
            return {
                "went backwards": ledger.backwards(connection),
                "moved after their end": self.rows("SELECT count(*) FROM moved_after_end")[0][0],
                "missing tasks": ledger.missing_tasks(connection),
                "stale": ledger.stale(connection),
                "moves": ledger.moves(connection),
                "versions": self.rows("SELECT count(*) FROM dag_version")[0][0],
                "loops": self.rows("SELECT count(*) FROM loops WHERE scheduler LIKE 'scheduler%%'")[0][0],
            }

    def _processes(self) -> int:
        return sum(len(scheduler.components) for scheduler in self.schedulers)

    def _until_all_work(self, since: float) -> float:
        """Wait for a commit of everybody after that time; return when the last of the schedulers made its own."""
        began = time.monotonic()
        until(
            lambda: all(writer.first_success(began) for writer in self.writers),
            lambda: f"all write: {[(writer.name, writer.last_error) for writer in self.writers]}",
            _PATIENCE_SECONDS,
        )
        query = "SELECT min(at) FROM loops WHERE scheduler LIKE 'scheduler%%' AND at > %s GROUP BY scheduler"
        until(
            lambda: len(self.rows(query, since)) == SCHEDULERS,
            lambda: "\n".join(["all loop", *(scheduler.components[-1].tail() for scheduler in self.schedulers)]),
            _PATIENCE_SECONDS,
        )
        return float(max(at for (at,) in self.rows(query, since)))

    def _lost(self) -> dict[str, int]:
        """Return how many commits were seen and are not there, and forget them."""
        there = {
            "versions": "SELECT id FROM dag_version",
            "runs": "SELECT id FROM dag_run",
            "states": "SELECT number FROM ledger",
            "loops": "SELECT id FROM loops",
        }
        lost = Counter[str]()
        for name, query in there.items():
            known = set(self._seen[name])
            gone = known - {key for (key,) in self.rows(query)}
            self._seen[name].difference_update(gone)
            lost[name] = len(gone)
        return dict(+lost)

    def _ask(self, command: str, **arguments: Any) -> Any:
        try:
            return self._worker(command, **arguments)
        except WorkerError:
            self._worker("abandon")
            raise

    def _write(self, dag_id: str, tasks: int) -> None:
        source = _DAG_FILE.format(dag_id=dag_id, tasks=tasks)
        self._ask("write_dag", file=f"{dag_id}.py", source=source)
        self._seen["versions"] |= {key for (key,) in self.rows("SELECT id FROM dag_version WHERE dag_id = %s", dag_id)}

    def _start_run(self, dag_id: str) -> None:
        self._runs += 1
        self._seen["runs"].add(self._ask("create_run", dag_id=dag_id, run_id=f"run_{self._runs}"))

    def _land(self, number: int) -> None:
        """Let a version with one more task land; some of them get a run."""
        dag_id = f"dag_{number % _DAGS}"
        self._write(dag_id, tasks=2 + number // _DAGS + 1)
        if number % 3 == 0:
            self._start_run(dag_id)

    def _next_state(self, number: int) -> None:
        with psycopg.connect(self._cluster.url(DATABASE), application_name="a writer") as connection:
            connection.execute(_NEXT_STATE.encode())
            connection.execute("INSERT INTO ledger VALUES (%s)", (number,))
        self._seen["states"].add(number)

    def _see_loops(self, _: int) -> None:
        lately = "SELECT id FROM loops WHERE at > extract(epoch FROM clock_timestamp()) - 2"
        self._seen["loops"] |= {key for (key,) in self.rows(lately)}


@contextmanager
def deployed_on(cluster: Cluster, directory: Path) -> Iterator[Callable[..., Trial]]:
    """Deploy the release of the run, whose URL names all servers; yield what makes a trial."""
    home = directory / "home"
    home.mkdir()
    configure(home, free_port())
    places = tuple(f"127.0.0.1:{node.port}" for node in cluster.nodes)
    query = {"host": places, "target_session_attrs": "read-write"}
    url = URL.create("postgresql", "postgres", database=DATABASE, query=query)
    with (
        environments.clone_of(environments.release(), directory) as python,
        start_worker(environments.release(), url, home, {"PGAPPNAME": "a writer"}) as worker,
    ):
        environments.install(environments.release(), python, str(environments.build_wheel(directory)))
        yield partial(Trial, cluster, Deployed(python, url, home), worker)
