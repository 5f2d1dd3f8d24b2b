"""The contenders: Airflow, dagbump, and as baselines the least work that a client and PostgreSQL can do."""

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
from benchmarks.figures import Memory
from benchmarks.fleet import Connection, move, scalar, stale_ids
from benchmarks.plan import LOOP_RUNS


@dataclass(frozen=True)
class Timing:
    """The milliseconds of one loop."""

    ms: float  # from the first statement to the end of the commit
    verify_ms: float = 0.0  # of these, Airflow's verify_integrity and reading the DAG for it


def select_one(connection: Connection) -> None:
    """Make a round trip, with the kind of cursor that dagbump's client uses."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1", prepare=False)
        cursor.fetchall()


def look(connection: Connection) -> None:
    """Look for missing tasks, as the plugin does once a minute."""
    client.verify_scope(connection, range(1, LOOP_RUNS + 1))


class Contender:
    """Does a scheduler's loop on a database that holds a fleet."""

    in_python = False  # Python does most of the work, not the server

    def __init__(self, name: str, connection: Connection, work: Callable[[Connection], object] = select_one) -> None:
        self.name = name
        self.connection = connection
        self._work = work

    def warm_up(self) -> None:
        """Do a loop in which nothing changed, as it happens every second."""
        self.loop()

    def change_version(self) -> UUID:
        return fleet.change_version(self.connection)

    def prepare(self, version: UUID) -> None:
        """Get ready for the loop after a change to this version, before the clock starts."""

    def loop(self) -> Timing:
        start = time.perf_counter()
        self._work(self.connection)
        return Timing((time.perf_counter() - start) * 1000)

    def inspect(self) -> Memory | None:
        """Do a loop that traces memory, which makes it several times slower. None: there is nothing to trace."""
        return None


class Bump(Contender):
    """One `dagbump.bump` per loop, as a scheduler calls it."""

    def __init__(self, name: str, connection: Connection) -> None:
        super().__init__(name, connection, lambda own: dagbump.bump(own, caller_verifies=True))

    def inspect(self) -> Memory:
        gc.collect()
        tracemalloc.start()
        result = dagbump.bump(self.connection, caller_verifies=True)
        gc.collect()  # garbage does not count as kept
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # The answer is one row per run. A row of another kind would be a TI.
        return Memory(kept, peak, sum(not isinstance(row, dagbump.RunBump) for row in result.runs))


class BareUpdate(Contender):
    """An UPDATE of exactly the rows that a bump moves. Their ids are found before the clock starts."""

    def warm_up(self) -> None:
        select_one(self.connection)  # without a version change there is nothing to update

    def prepare(self, version: UUID) -> None:
        ids = stale_ids(self.connection)
        self._work = lambda own: move(own, ids, version)


class Airflow(Contender):
    """A scheduler's loop in a process of Airflow. The clock is in that process, so the pipe to it is not timed."""

    in_python = True

    def __init__(self, name: str, connection: Connection, worker: Worker, **how: bool) -> None:
        super().__init__(name, connection)
        self.worker = worker
        self._how = how
        worker("take_times")

    def ask(self, **how: bool) -> dict[str, Any]:
        """Do a loop, and return everything that the process answers."""
        answer: dict[str, Any] = self.worker("loop", **self._how, **how)
        return answer

    def loop(self) -> Timing:
        took = self.ask()
        return Timing(took["ms"], took["verify_ms"])

    def inspect(self) -> Memory:
        seen = self.ask(traced=True)
        return Memory(seen["kept"], seen["peak"], seen["tis_loaded"])


class WithATaskMore(Airflow):
    """The same, but each new version adds a task."""

    _tasks = 0

    def warm_up(self) -> None:
        super().loop()

    def change_version(self) -> UUID:
        # What an earlier version has added is finished, so that the same TIs are stale here as for the bare UPDATE.
        fleet.finish_task(self._tasks, self.connection)
        self._tasks = (self._tasks or scalar(self.connection, "SELECT count(DISTINCT task_id) FROM task_instance")) + 1
        fleet.write_dag(self._tasks, self.worker)
        return fleet.latest_version(self.connection)

    def loop(self) -> Timing:
        timing = super().loop()
        tasks = "SELECT count(DISTINCT task_id) AS number FROM task_instance GROUP BY run_id"
        if scalar(self.connection, f"SELECT min(number) FROM ({tasks}) AS run") != self._tasks:
            raise RuntimeError(f"benchmark: after a loop of {self.name}, runs lack a task")
        return timing
