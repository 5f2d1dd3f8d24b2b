"""Stock Airflow: a release in its own environment, its own methods called."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy.engine import URL
from support.releases import worker
from support.releases.worker import Worker

from benchmarks.sides import Loop, Memory

_SCRIPT = Path(__file__).parents[1] / "stock_worker.py"


def start_worker(release: str, url: URL, home: Path, most_runs: int) -> AbstractContextManager[Worker]:
    """Start a process of that release on a database that it has migrated; killed at the end."""
    environment = {
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "600",
        "AIRFLOW__SCHEDULER__MAX_DAGRUNS_PER_LOOP_TO_SCHEDULE": str(most_runs),
    }
    return worker.start_worker(release, url, home, environment, _SCRIPT)


class Stock:
    """The loop of that release: get_running_dag_runs_to_examine, then _verify_integrity_if_dag_changed per run."""

    in_python = True

    def __init__(self, worker: Worker, connection: psycopg.Connection[Any]) -> None:
        """Take a worker, and a connection to its database."""
        self.name = f"stock-{worker.release}"
        self.connection = connection
        self._worker = worker

    def warm_up(self) -> None:
        """Do a loop."""
        self.loop()

    def prepare(self, version: UUID) -> None:
        """Nothing: Airflow finds the version itself."""

    def loop(self) -> Loop:
        """Do a loop; the worker holds the clock, so that the pipe to it is not timed."""
        return Loop(**self._worker("loop"))

    def inspect(self) -> Memory:
        """Do a loop under tracemalloc."""
        return Memory(**self._worker("inspect"))
