"""Run by the Python of an Airflow environment: makes fleets, and does the scheduler's loop, with Airflow's own code.

Speaks as tests/support/inside_airflow/components.py does, whose commands it has: JSON lines, answers to the file
descriptor that it is given.
"""

from __future__ import annotations

import gc
import sys
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from typing import Any

import airflow
import sqlalchemy as sa
from airflow import settings
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.sqlalchemy import prohibit_commit
from sqlalchemy.orm import Session
from support.inside_airflow.components import Commands, main


class StockCommands(Commands):
    """The commands: those of the tests, and the loop."""

    def __init__(self) -> None:
        """Connect to the database that Airflow is configured for."""
        super().__init__()
        self._ms: defaultdict[str, float] = defaultdict(float)
        self._under_way: set[str] = set()

    def take_times(self) -> None:
        """Take, from now on, the time of the parts of a loop; once."""
        self._time(DagRun, "verify_integrity", "verify")
        self._time(type(self.airflow.scheduler.scheduler_dag_bag), "_get_dag", "dag")

    def loop(self) -> dict[str, float]:
        """Do one loop; answer what it took, in milliseconds."""
        with closing(self._session()) as session:
            self._ms.clear()
            start = time.perf_counter()
            with prohibit_commit(session) as guard:
                self._examine_and_verify(session, guard)
                guard.commit()
            ms = (time.perf_counter() - start) * 1000
        return {"ms": ms, "verify_ms": self._ms["verify"] + self._ms["dag"], "dag_ms": self._ms["dag"]}

    def inspect(self) -> dict[str, int]:
        """Do one loop; answer what it makes of memory."""
        loaded = 0

        def count(*_: Any) -> None:
            nonlocal loaded
            loaded += 1

        gc.collect()
        sa.event.listen(TaskInstance, "load", count)
        tracemalloc.start()
        try:
            with closing(self._session()) as session, prohibit_commit(session) as guard:
                runs = self._examine_and_verify(session, guard)
                gc.collect()  # what only waits for the collector is not kept
                kept, _ = tracemalloc.get_traced_memory()
                guard.commit()
                del runs
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            sa.event.remove(TaskInstance, "load", count)
        return {"kept": kept, "peak": peak, "tis_loaded": loaded}

    def _session(self) -> Session:
        """Open a session, as every loop does; connected, so that the pool's ping is not part of the loop."""
        assert settings.NonScopedSession is not None
        session: Session = settings.NonScopedSession()
        session.connection()
        return session

    def _examine_and_verify(self, session: Session, guard: Any) -> list[DagRun]:  # noqa: ARG002  (the plugin's needs it)
        """Do what SchedulerJobRunner._do_scheduling and _schedule_dag_run do about versions; keep what they keep."""
        runs = self.airflow.examine(session)
        for run in runs:
            if not run.bundle_version:
                self.airflow.scheduler._verify_integrity_if_dag_changed(dag_run=run, session=session)
        return runs

    def _time(self, owner: type, name: str, what: str) -> None:
        """Add up the time that a method takes, what is timed inside of it but once; it is not replaced, only timed."""
        method: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if what in self._under_way:
                return method(*args, **kwargs)
            self._under_way.add(what)
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self._ms[what] += (time.perf_counter() - start) * 1000
                self._under_way.remove(what)

        setattr(owner, name, timed)


if __name__ == "__main__":
    main(
        StockCommands,
        {"airflow": airflow.__version__, "sqlalchemy": sa.__version__, "python": sys.version.split()[0]},
    )
