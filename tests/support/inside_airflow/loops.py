"""Like components.py, for whole loops: `_do_scheduling` on a database that has replaced the last one.

Nothing is executed: the executor is never started, keeps what it is given, and forks no process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import MethodType
from typing import Any
from unittest.mock import patch

import sqlalchemy as sa
from airflow import settings
from airflow.callbacks.database_callback_sink import DatabaseCallbackSink
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.sqlalchemy import prohibit_commit
from dagbump.airflow_plugin.loop import Memory
from dagbump.airflow_plugin.scheduling import Scheduling
from sqlalchemy.orm import Session

from support.inside_airflow.components import Commands, main


class LoopCommands(Commands):
    """The commands: those of components.py, and the scheduler's loop."""

    def connect(self) -> None:
        """Begin anew; what the plugin remembers of runs is not of those of another database with the same ids."""
        # All DAGs have been written. From here on Airflow's default, for which 3.3 trusts a DAG that it has read.
        os.environ["AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL"] = "30"
        super().connect()
        plugin = getattr(SchedulerJobRunner, "dagbump", None)
        if plugin is not None:
            plugin.memory = Memory(plugin.memory.interval, plugin.memory.warn_held_after)

    def do_scheduling(self, max_runs: int, *, missing_tasks: bool = False) -> dict[str, Any]:
        """Do one loop of a scheduler that examines so many runs; answer its error, and what it gave to the executor.

        With dagbump, it looks for missing tasks only where it is told to, as a stock one never does.
        """
        executors = self._executors()
        error = None
        verified: list[int] = []
        plugin = getattr(SchedulerJobRunner, "dagbump", None)
        if plugin is not None:
            plugin.memory.interval = 60 if missing_tasks else 0
        with (
            patch.object(DagRun, "DEFAULT_DAGRUNS_TO_EXAMINE", max_runs),
            verifies(verified),
            closing(session()) as orm,
        ):
            try:
                self.airflow.scheduler._do_scheduling(orm)
                orm.commit()
            except Exception as raised:  # noqa: BLE001  (the test compares it)
                error = f"{type(raised).__name__}: {raised}"
        queued = [workload.ti for executor in executors for workload in executor.queued_tasks.values()]
        return {
            "error": error,
            "queued": [in_short(ti) for ti in queued],
            "logged": self.logged(),
            "verified": verified,
        }

    def do_scheduling_without_verify(self, max_runs: int) -> dict[str, Any]:
        """Do one loop with a plugin that bumps, and reports each run as verified."""
        with patch.object(Scheduling, "verify", lambda *_: True):
            return self.do_scheduling(max_runs)

    def count_statements(self) -> dict[str, Any]:
        """Do the part of a loop that dagbump changes; answer its statements, and how many TIs examining has loaded."""
        with closing(session()) as orm, prohibit_commit(orm) as guard:
            with statements() as examining, loaded_tis() as tis:
                runs = self.airflow.examine(orm)
            with statements() as scheduling:
                self.airflow.scheduler._schedule_all_dag_runs(guard, runs, orm)
        return {"runs": len(runs), "examining": examining, "tis_loaded": len(tis), "scheduling": scheduling}

    def _executors(self) -> list[Any]:
        """Empty the executors' queues, as their heartbeat does, and let them keep what they get from now on."""
        scheduler = self.airflow.scheduler
        executors: list[Any] = getattr(scheduler, "executors", None) or scheduler.job.executors  # up to 3.1: the job's
        for executor in executors:
            executor.callback_sink = DatabaseCallbackSink()
            executor.queue_workload = MethodType(keep, executor)  # in 3.0 it would start a process
            executor.queued_tasks.clear()
        return executors


def keep(self: Any, workload: Any, session: object) -> None:  # noqa: ARG001  (Airflow goes by the name)
    self.queued_tasks[workload.ti.key] = workload


def session() -> Session:
    assert settings.NonScopedSession is not None
    session: Session = settings.NonScopedSession()
    return session


def in_short(ti: Any) -> dict[str, Any]:
    """Return what an executor has been given. In 3.0 it does not get the version."""
    columns = ("dag_id", "run_id", "task_id", "map_index", "try_number", "dag_version_id")
    return {name: getattr(ti, name, None) for name in columns}


@contextmanager
def verifies(verified: list[int]) -> Iterator[None]:
    """Collect the ids of the runs whose verify_integrity is called."""

    def verify_integrity(self: Any, **arguments: Any) -> None:
        verified.append(self.id)
        original(self, **arguments)

    original = DagRun.verify_integrity
    with patch.object(DagRun, "verify_integrity", verify_integrity):
        yield


@contextmanager
def statements() -> Iterator[list[str]]:
    """Collect the statements that are sent to the database, SAVEPOINT and RELEASE among them."""

    def on_execute(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    sent: list[str] = []
    assert settings.engine is not None
    sa.event.listen(settings.engine, "before_cursor_execute", on_execute)
    try:
        yield sent
    finally:
        sa.event.remove(settings.engine, "before_cursor_execute", on_execute)


@contextmanager
def loaded_tis() -> Iterator[list[object]]:
    def on_load(ti: object, _: object) -> None:
        tis.append(ti)

    tis: list[object] = []
    sa.event.listen(TaskInstance, "load", on_load)
    try:
        yield tis
    finally:
        sa.event.remove(TaskInstance, "load", on_load)


if __name__ == "__main__":
    main(LoopCommands)
