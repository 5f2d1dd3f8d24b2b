"""The contenders: Airflow, dagbump, and as baselines the least that a client and PostgreSQL can do."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import dagbump
from dagbump import client
from support.releases.worker import Worker

from benchmarks import fleet
from benchmarks.fleet import Connection, move, scalar, stale_ids
from benchmarks.plan import LOOP_RUNS
from benchmarks.results import Memory


@dataclass(frozen=True)
class Timing:
    """What one loop took, in milliseconds."""

    ms: float  # from its first statement to the end of its commit
    verify_ms: float = 0.0  # of which Airflow's verify_integrity, and the reading of the DAG for it


def select_one(connection: Connection) -> None:
    """Make a round trip, on the same kind of cursor as dagbump's client takes."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1", prepare=False)
        cursor.fetchall()


def look(connection: Connection) -> None:
    """Look for missing tasks, as the plugin does once a minute."""
    client.verify_scope(connection, range(1, LOOP_RUNS + 1))


class Contender:
    """Who does a scheduler's loop, on a database of a fleet."""

    in_python = False  # whether Python does most of the work, and not the server

    def __init__(self, name: str, connection: Connection, work: Callable[[Connection], object] = select_one) -> None:
        self.name = name
        self.connection = connection
        self._work = work

    def warm_up(self) -> None:
        """Do what happens every second: a loop in which nothing changed."""
        self.loop()

    def change_version(self) -> UUID:
        return fleet.change_version(self.connection)

    def prepare(self, version: UUID) -> None:
        """Get ready, before the clock starts, for the loop after a change to this version."""

    def loop(self) -> Timing:
        start = time.perf_counter()
        self._work(self.connection)
        return Timing((time.perf_counter() - start) * 1000)

    def inspect(self) -> Memory | None:
        """Do one loop, tracing memory, which takes several times as long; None where there is nothing to trace."""
        return None


class Bump(Contender):
    """One `dagbump.bump` per loop, as the scheduler would call it."""

    def __init__(self, name: str, connection: Connection) -> None:
        super().__init__(name, connection, lambda own: dagbump.bump(own, caller_verifies=True))

    def inspect(self) -> Memory:
        gc.collect()
        tracemalloc.start()
        result = dagbump.bump(self.connection, caller_verifies=True)
        gc.collect()  # what only waits for the collector is not kept
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # All that comes back is one row per run; a row of any other kind would be a TI.
        return Memory(kept, peak, sum(not isinstance(row, dagbump.RunBump) for row in result.runs))


class BareUpdate(Contender):
    """An UPDATE of the very rows that a bump moves, whose ids somebody else has found beforehand."""

    def warm_up(self) -> None:
        select_one(self.connection)  # without a version change there is nothing to move

    def prepare(self, version: UUID) -> None:
        ids = stale_ids(self.connection)
        self._work = lambda own: move(own, ids, version)


class Airflow(Contender):
    """What a scheduler does about versions. Its process holds the clock, so that the pipe to it is not timed."""

    in_python = True

    def __init__(self, name: str, connection: Connection, worker: Worker, **how: bool) -> None:
        super().__init__(name, connection)
        self.worker = worker
        self._how = how
        worker("take_times")

    def ask(self, **how: bool) -> dict[str, Any]:
        """Let it do a loop, with more of an answer than it gives as a rule."""
        answer: dict[str, Any] = self.worker("loop", **self._how, **how)
        return answer

    def loop(self) -> Timing:
        took = self.ask()
        return Timing(took["ms"], took["verify_ms"])

    def inspect(self) -> Memory:
        seen = self.ask(traced=True)
        return Memory(seen["kept"], seen["peak"], seen["tis_loaded"])


class WithATaskMore(Airflow):
    """The same, where each new version adds a task."""

    _tasks = 0

    def warm_up(self) -> None:
        super().loop()

    def change_version(self) -> UUID:
        self._tasks = (self._tasks or scalar(self.connection, "SELECT count(DISTINCT task_id) FROM task_instance")) + 1
        fleet.write_dag(self._tasks, self.worker)
        return fleet.latest_version(self.connection)

    def loop(self) -> Timing:
        timing = super().loop()
        tasks = "SELECT count(DISTINCT task_id) AS number FROM task_instance GROUP BY run_id"
        if scalar(self.connection, f"SELECT min(number) FROM ({tasks}) AS run") != self._tasks:
            raise RuntimeError(f"benchmark: after a loop of {self.name}, runs lack a task")
        return timing
