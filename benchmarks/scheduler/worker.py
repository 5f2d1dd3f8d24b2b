"""Run by the Python of an Airflow environment: stock_worker.py, with dagbump's plugin, and with whole loops."""

from __future__ import annotations

import sys
import time
import tracemalloc
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dagrun import DagRun
from airflow.utils.sqlalchemy import prohibit_commit
from dagbump.airflow_plugin.verification import savepoint
from sqlalchemy.orm import Session
from support.inside_airflow.components import main
from support.inside_airflow.loops import statements

sys.path.append(str(Path(__file__).parents[2]))
from benchmarks.stock_worker import StockCommands


class SchedulerCommands(StockCommands):
    """The commands: those of stock_worker.py, with the plugin where it is on, and whole loops."""

    def turn_on(self) -> None:
        """Turn the plugin on; before times are taken, since it wants Airflow as it is."""
        lines = self.start_scheduler()
        assert any(" is on" in line for line in lines), lines

    def take_times(self) -> None:
        """Take the time of the parts of a loop, and of all that a whole loop asks about versions and DAGs."""
        super().take_times()
        bag = self.airflow.scheduler.scheduler_dag_bag
        self._time(SchedulerJobRunner, "_verify_integrity_if_dag_changed", "version")
        self._time(type(bag), "get_dag_for_run" if hasattr(bag, "get_dag_for_run") else "get_dag", "version")
        if self._scheduling:
            self._time(type(self._scheduling), "_bump", "version")
            self._time(type(self._scheduling), "_dag_of", "version")

    def whole_loop(self, *, traced: bool = False, counted: bool = False) -> dict[str, float]:
        """Do all that a loop does with running runs; answer how many, what it took, and what was asked for.

        Tracing memory takes several times as long, and counting statements somewhat longer.
        """
        self._ms.clear()
        if traced:
            tracemalloc.start()
        with (
            counted_statements(counted) as sent,
            closing(self._session()) as session,
            prohibit_commit(session) as guard,
        ):
            start = time.perf_counter()
            runs = self.airflow.examine(session)
            self.airflow.scheduler._schedule_all_dag_runs(guard, runs, session)
            ms = (time.perf_counter() - start) * 1000
        peak = tracemalloc.get_traced_memory()[1] if traced else 0
        tracemalloc.stop()
        return {
            "runs": len(runs),
            "ms": ms,
            "version_ms": self._ms["version"],
            "peak": peak,
            "statements": len(sent),
        }

    @property
    def _scheduling(self) -> Any:
        return getattr(SchedulerJobRunner, "dagbump", None)

    def _examine_and_verify(self, session: Session, guard: Any) -> list[DagRun]:
        runs = self.airflow.examine(session)
        with self._looping(runs, session, guard):
            for run in runs:
                self.airflow.scheduler._verify_integrity_if_dag_changed(dag_run=run, session=session)
        return runs

    def _looping(self, runs: list[DagRun], session: Session, guard: Any) -> AbstractContextManager[Any]:
        if not self._scheduling:
            return nullcontext()
        looping: AbstractContextManager[Any] = self._scheduling.looping(
            self.airflow.scheduler, runs, session, partial(savepoint, session, guard)
        )
        return looping


def counted_statements(counted: bool) -> AbstractContextManager[list[str]]:
    """Collect what is sent to the database; where that is not asked for, nothing."""
    return statements() if counted else nullcontext([])


if __name__ == "__main__":
    main(SchedulerCommands)
