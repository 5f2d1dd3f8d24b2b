"""Replaces three functions of Airflow; a replacement asks the current loop, and else calls Airflow's own function.

Only `_schedule_all` knows the form of the scheduler's loop in Airflow 3.0 to 3.4: a list of runs, a guard, and one
commit at the end. A release with another loop needs another such function in a module of its own, and its parameters in
`compatibility`.

Airflow is imported inside the functions, after the check that dagbump knows this release.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial, wraps
from types import ModuleType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from dagbump import client
from dagbump.airflow_plugin import compatibility, configuration, reporting
from dagbump.airflow_plugin.compatibility import DagRun, SchedulerJobRunner, UnfitError
from dagbump.airflow_plugin.loop import Loop
from dagbump.airflow_plugin.scheduling import Scheduling
from dagbump.airflow_plugin.verification import savepoint
from dagbump.installation import state


def turn_on(scheduler: ModuleType) -> None:
    """Make the schedulers of this process call dagbump; a second call does nothing.

    Args:
        scheduler: Airflow's module ``airflow.jobs.scheduler_job_runner``.

    Raises:
        Exception: something does not fit. Nothing has been replaced.
    """
    if hasattr(scheduler.SchedulerJobRunner, "dagbump"):
        return
    compatibility.require_known_airflow(scheduler)
    settings = {name: configuration.seconds(name) for name in ("warn_held_after", "missing_tasks_interval")}
    _require_installed()
    _replace(scheduler, Scheduling(scheduler, **settings))
    reporting.is_on()


def _require_installed() -> None:
    """Check the installation, and the right to call the functions, with calls for an empty list of runs."""
    from airflow import settings
    from airflow.models.base import Base
    from airflow.utils.retries import run_with_db_retries

    engine = settings.engine
    if engine is None or engine.dialect.name != "postgresql":
        raise UnfitError("it works only on PostgreSQL")
    for attempt in run_with_db_retries():  # as Airflow does, because dagbump stays off after an error
        with attempt, engine.connect() as connection:
            state.require_usable(connection, Base.metadata.schema)
            client.bump(connection, dag_run_ids=[], caller_verifies=True, report_all=True)
            client.verify_scope(connection, [])


def _replace(scheduler: ModuleType, scheduling: Scheduling) -> None:
    """Replace all three functions of Airflow, or none of them after an error."""
    runner, dag_run = scheduler.SchedulerJobRunner, scheduler.DagRun
    replacements = [
        (runner, "_schedule_all_dag_runs", _schedule_all(runner, scheduling)),
        (runner, "_verify_integrity_if_dag_changed", _verify_if_due(runner, scheduling)),
        (dag_run, "get_running_dag_runs_to_examine", _examine(dag_run)),
    ]
    # One listener for all sessions. A listener per loop would leave a weakref whose callback swallows a SIGTERM.
    sa.event.listen(Session, "after_soft_rollback", scheduling.on_rollback)
    for owner, name, function in replacements:
        setattr(owner, name, function)
    runner.dagbump = scheduling


def _schedule_all(runner_class: Any, scheduling: Scheduling) -> Any:
    from airflow.utils.retries import retry_db_transaction

    stock = runner_class._schedule_all_dag_runs.__wrapped__

    # The bump is inside the retries, because each try after a rollback has to bump again.
    @retry_db_transaction
    @wraps(stock)
    def _schedule_all_dag_runs(
        runner: SchedulerJobRunner, guard: Any, dag_runs: Iterable[DagRun], session: Session
    ) -> Any:
        loop = Loop(runner, session, partial(savepoint, session, guard))
        with scheduling.looping(loop, list(dag_runs)) as runs:
            return stock(runner, guard, runs, session)

    return _schedule_all_dag_runs


def _verify_if_due(runner_class: Any, scheduling: Scheduling) -> Any:
    stock = runner_class._verify_integrity_if_dag_changed

    @wraps(stock)
    def _verify_integrity_if_dag_changed(runner: SchedulerJobRunner, dag_run: DagRun, session: Session) -> Any:
        loop = scheduling.loop
        if loop is None or not loop.knows(dag_run):
            return stock(runner, dag_run=dag_run, session=session)
        return scheduling.verify(loop, dag_run)

    return _verify_integrity_if_dag_changed


def _examine(dag_run_class: Any) -> Any:
    from airflow.utils.retries import retry_db_transaction

    stock = dag_run_class.get_running_dag_runs_to_examine.__wrapped__
    lazy = compatibility.examining_without_tis(stock)
    if lazy is None:
        return vars(dag_run_class)["get_running_dag_runs_to_examine"]
    return classmethod(retry_db_transaction(wraps(stock)(lazy)))
