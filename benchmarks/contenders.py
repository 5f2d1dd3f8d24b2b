"""The contenders: stock Airflow, dagbump, and as baselines the least that a client and PostgreSQL can do."""

from __future__ import annotations

import gc
import time
import tracemalloc
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import dagbump
import psycopg
from sqlalchemy.engine import URL
from support.releases import worker as airflow_worker
from support.releases.worker import Worker

from benchmarks.database import move, stale_ids
from benchmarks.fleet import change_version

# How the report calls them, in its order.
NAMES = {
    "stock-3.1.6": "Airflow 3.1.6",
    "stock-3.3.2": "Airflow 3.3.2",
    "dagbump": "dagbump",
    "dagbump-index": "dagbump + index",
    "select-1": "`SELECT 1`",
    "update": "bare UPDATE",
    "update-index": "bare UPDATE + index",
}
# The UPDATE of the same rows in the same database.
BASELINES = {"dagbump": "update", "dagbump-index": "update-index"}


@dataclass(frozen=True)
class Memory:
    """What a loop makes of Python's memory."""

    kept: int  # bytes that are held when its work is done, before the result of it is let go
    peak: int  # bytes that were held at most
    tis_loaded: int  # task instances that have become Python objects, or rows


@dataclass(frozen=True)
class Timing:
    """What one loop took, in milliseconds."""

    ms: float  # from its first statement to the end of its commit
    verify_ms: float = 0.0  # of which Airflow's verify_integrity, and the reading of the DAG for it
    dag_ms: float = 0.0  # of which the latter


class Contender:
    """Who does a scheduler's loop, on a database of a fleet."""

    in_python = False  # whether Python does most of the work, and not the server

    def __init__(self, name: str, connection: psycopg.Connection[Any], own: psycopg.Connection[Any]) -> None:
        """Take a connection for the benchmark's questions, and one to work on."""
        self.name = name
        self.connection = connection
        self._own = own

    def warm_up(self) -> None:
        """Do what happens every second: a loop in which nothing changed."""
        self.loop()

    def change_version(self) -> UUID:
        """Let there be a new version of the DAG; return its id."""
        return change_version(self.connection)

    def prepare(self, version: UUID) -> None:
        """Get ready, before the clock starts, for the loop after a change to this version."""

    def loop(self) -> Timing:
        """Do one loop."""
        start = time.perf_counter()
        self._work()
        return Timing((time.perf_counter() - start) * 1000)

    def inspect(self) -> Memory | None:
        """Do one loop, tracing memory, which takes several times as long; None where there is nothing to trace."""
        return None

    def _work(self) -> Any:
        raise NotImplementedError


class Stock(Contender):
    """The loop of a release: get_running_dag_runs_to_examine, then _verify_integrity_if_dag_changed per run."""

    in_python = True

    def __init__(self, worker: Worker, connection: psycopg.Connection[Any]) -> None:
        """Take a worker, which holds the clock, so that the pipe to it is not timed."""
        super().__init__(f"stock-{worker.release}", connection, connection)
        self._worker = worker

    def loop(self) -> Timing:
        """Let Airflow do a loop."""
        return Timing(**self._worker("loop"))

    def inspect(self) -> Memory:
        """Let Airflow do a loop under tracemalloc."""
        return Memory(**self._worker("inspect"))


def start_airflow(release: str, url: URL, home: Path, most_runs: int) -> AbstractContextManager[Worker]:
    """Start a process of that release on a database that it has migrated; killed at the end."""
    environment = {
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "600",
        "AIRFLOW__SCHEDULER__MAX_DAGRUNS_PER_LOOP_TO_SCHEDULE": str(most_runs),
    }
    script = Path(__file__).with_name("stock_worker.py")
    return airflow_worker.start_worker(release, url, home, environment, script)


class Bump(Contender):
    """One `dagbump.bump` per loop, as the scheduler would call it."""

    def _work(self) -> dagbump.BumpResult:
        return dagbump.bump(self._own, caller_verifies=True)

    def inspect(self) -> Memory:
        """Do a loop under tracemalloc."""
        gc.collect()
        tracemalloc.start()
        try:
            result = self._work()
            gc.collect()  # what only waits for the collector is not kept
            kept, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # All that comes back is one row per run; a row of any other kind would be a TI.
        return Memory(kept, peak, sum(not isinstance(row, dagbump.RunBump) for row in result.runs))


class SelectOne(Contender):
    """One round trip, on the same kind of cursor as dagbump's client takes."""

    def _work(self) -> None:
        with self._own.cursor() as cursor:
            cursor.execute("SELECT 1", prepare=False)
            cursor.fetchall()


class BareUpdate(Contender):
    """An UPDATE of the very rows that a bump moves, whose ids somebody else has found beforehand."""

    _ids = "{}"
    _version: UUID

    def warm_up(self) -> None:
        """Do a round trip: without a version change there is nothing to move."""
        self._own.execute("SELECT 1")

    def prepare(self, version: UUID) -> None:
        """Collect the ids."""
        self._ids, self._version = stale_ids(self.connection), version

    def _work(self) -> None:
        move(self._own, self._ids, self._version)
