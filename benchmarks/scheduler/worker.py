"""Run by the Python of an Airflow environment: stock_worker.py, with dagbump's plugin, and with whole loops."""

from __future__ import annotations

import sys
import time
import tracemalloc
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dagrun import DagRun
from airflow.utils.sqlalchemy import prohibit_commit
from sqlalchemy.orm import Session
from support.inside_airflow.components import main

sys.path.append(str(Path(__file__).parents[2]))
from benchmarks.stock_worker import StockCommands


class SchedulerCommands(StockCommands):
    """The commands: those of stock_worker.py, with the plugin where it is on, and whole loops."""

    def turn_on(self) -> None:
        """Turn the plugin on; before times are taken, since it wants Airflow as it is."""
        lines = self.start_scheduler()
        assert any(" is on" in line for line in lines), lines

    def take_times(self) -> None:
        """Take the time of the parts of a loop, and of all that a whole loop does about versions."""
        super().take_times()
        self._time(SchedulerJobRunner, "_verify_integrity_if_dag_changed", "version")
        if self._scheduling:
            self._time(type(self._scheduling), "_bump", "version")

    def whole_loop(self, *, traced: bool = False) -> dict[str, float]:
        """Do all that a loop does with running runs; answer how many, what it took, and bytes at the peak.

        Tracing memory takes several times as long.
        """
        self._ms.clear()
        if traced:
            tracemalloc.start()
        with closing(self._session()) as session, prohibit_commit(session) as guard:
            start = time.perf_counter()
            runs = self.airflow.examine(session)
            examined = time.perf_counter()
            self.airflow.scheduler._schedule_all_dag_runs(guard, runs, session)
            ms = (time.perf_counter() - start) * 1000
        peak = tracemalloc.get_traced_memory()[1] if traced else 0
        tracemalloc.stop()
        return {
            "runs": len(runs),
            "ms": ms,
            "version_ms": (examined - start) * 1000 + self._ms["version"],
            "peak": peak,
        }

    @property
    def _scheduling(self) -> Any:
        return getattr(SchedulerJobRunner, "dagbump", None)

    def _examine_and_verify(self, session: Session) -> list[DagRun]:
        runs = self.airflow.examine(session)
        with self._looping(runs, session):
            for run in runs:
                self.airflow.scheduler._verify_integrity_if_dag_changed(dag_run=run, session=session)
        return runs

    def _looping(self, runs: list[DagRun], session: Session) -> AbstractContextManager[None]:
        if not self._scheduling:
            return nullcontext()
        looping: AbstractContextManager[None] = self._scheduling.looping(self.airflow.scheduler, runs, session)
        return looping


if __name__ == "__main__":
    main(SchedulerCommands)
