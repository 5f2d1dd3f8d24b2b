"""Runs in the Python of an Airflow environment: creates fleets and does a scheduler's loop, with Airflow's own code.

It extends the commands of tests/support/inside_airflow/components.py, and is called in the same way.
"""

from __future__ import annotations

import gc
import sys
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from typing import Any

import airflow
import sqlalchemy as sa
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.sqlalchemy import prohibit_commit
from dagbump.airflow_plugin.loop import Loop
from dagbump.airflow_plugin.verification import savepoint
from sqlalchemy.orm import Session
from support.inside_airflow.components import Commands, main
from support.inside_airflow.loops import session, statements


class BenchmarkCommands(Commands):
    """The commands of the tests, and the loop of a scheduler."""

    def __init__(self) -> None:
        """Connect to the database that Airflow is configured for."""
        super().__init__()
        self._ms: defaultdict[str, float] = defaultdict(float)
        self._under_way: set[str] = set()

    def turn_on(self) -> None:
        """Turn the plugin on. It has to come before `take_times`, because the plugin refuses a patched Airflow."""
        lines = self.start_scheduler()
        assert any(" is on" in line for line in lines), lines

    def take_times(self) -> None:
        """Measure the parts of a loop from now on, and all that it does about versions and DAGs."""
        bag = type(self.airflow.scheduler.scheduler_dag_bag)
        self._time(DagRun, "verify_integrity", "verify")
        self._time(bag, "_get_dag", "dag")
        self._time(SchedulerJobRunner, "_verify_integrity_if_dag_changed", "version")
        self._time(bag, "get_dag_for_run" if hasattr(bag, "get_dag_for_run") else "get_dag", "version")
        if self._plugin:
            self._time(type(self._plugin), "_bump", "version")
            self._time(Loop, "dag_of", "version")

    def loop(
        self, *, whole: bool = False, reading: bool = True, traced: bool = False, counted: bool = False
    ) -> dict[str, float]:
        """Do the version part of a loop, or the whole loop over running runs, and answer what it took.

        Reading the new DAG can be left out of the times. For a whole loop, `verify_ms` is all that it does about
        versions and DAGs. Tracing memory makes it several times slower, and counting statements a little.
        """
        self._ms.clear()
        seen: dict[str, float] = {"tis_loaded": 0}

        def on_load(*_: object) -> None:  # keeps no reference, because memory is measured
            seen["tis_loaded"] += 1

        if traced:
            sa.event.listen(TaskInstance, "load", on_load)
            gc.collect()
            tracemalloc.start()
        counting: AbstractContextManager[list[str]] = statements() if counted else nullcontext([])
        with counting as sent, closing(session()) as orm:
            orm.connection()  # here, so that the pool's ping is not timed
            start = time.perf_counter()
            with prohibit_commit(orm) as guard:
                runs = self.airflow.examine(orm)
                work = self.airflow.scheduler._schedule_all_dag_runs if whole else self._verify_all
                work(guard, runs, orm)
                if traced:
                    gc.collect()  # garbage does not count as kept
                    seen["kept"] = tracemalloc.get_traced_memory()[0]
                if not whole:
                    guard.commit()
            seen["ms"] = (time.perf_counter() - start) * 1000
        if traced:
            seen["peak"] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            sa.event.remove(TaskInstance, "load", on_load)
        if whole:
            seen["verify_ms"] = self._ms["version"]
        else:
            seen["verify_ms"] = self._ms["verify"] + (self._ms["dag"] if reading else 0)
            seen["ms"] -= 0 if reading else self._ms["dag"]
        return seen | {"runs": len(runs), "statements": len(sent)}

    def loop_for(self, seconds: float) -> dict[str, int]:
        """Do whole loops for so long."""
        end, runs = time.perf_counter() + seconds, []
        while time.perf_counter() < end:
            runs.append(int(self.loop(whole=True)["runs"]))
        return {"loops": len(runs), "runs": sum(runs)}

    @property
    def _plugin(self) -> Any:
        return getattr(SchedulerJobRunner, "dagbump", None)

    def _verify_all(self, guard: Any, runs: list[DagRun], orm: Session) -> None:
        """Do what `_schedule_all_dag_runs` and `_schedule_dag_run` do about versions."""
        scheduler = self.airflow.scheduler
        looping: AbstractContextManager[Any] = nullcontext()
        if self._plugin:
            looping = self._plugin.looping(Loop(scheduler, orm, partial(savepoint, orm, guard)), runs)
        with looping:
            for run in runs:
                scheduler._verify_integrity_if_dag_changed(dag_run=run, session=orm)

    def _time(self, owner: type, name: str, what: str) -> None:
        """Add up the time that a method takes. A timed call inside another one of the same kind counts once."""
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
        BenchmarkCommands,
        {"airflow": airflow.__version__, "sqlalchemy": sa.__version__, "python": sys.version.split()[0]},
    )
