"""verify_integrity by the truth: called where it would do something, and with no more task instances than it needs.

What it does on a running run (the same in Airflow 3.0 to 3.4) is to take back REMOVED TIs whose task is in the DAG, to
compare the indexes of mapped TIs with what they are mapped over, and to create the TIs of tasks that have none. For the
first two it needs these TIs; of all others only their task_id, to know which tasks have one. `dagbump.verify_scope` has
that from the database. A task_instance_mutation_hook is shown every TI: where there is one, it is left as it is.

It is no pure addition: it sets every mapped TI of a task to REMOVED, whatever its state, while the task's upstream
cannot be counted. Airflow calls it once for a version. A call that Airflow would not make is only for what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NoReturn
from uuid import UUID

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from dagbump.airflow_plugin.compatibility import DagRun
from dagbump.results import RunScope


class RolledBackError(Exception):
    """verify_integrity wanted to roll the scheduler's transaction back, as another has created the same TI."""

    def __init__(self) -> None:
        super().__init__("another transaction has created the same task instance")


class VerifyError(Exception):
    """verify_integrity raised what is its cause."""


def would_do_nothing(scope: RunScope) -> bool:
    """Say whether verify_integrity would leave everything as it is."""
    return not (scope.missing_tasks or scope.restored_tasks or scope.has_mapped)


def only_what_is_missing(scope: RunScope) -> RunScope:
    """Return a scope in which there is no task that has a task instance that lives."""
    missing = set(scope.missing_tasks or ())
    restored = tuple(task for task in scope.restored_tasks or () if task in missing)
    return replace(scope, restored_tasks=restored, has_mapped=False)


def verify_integrity(run: DagRun, version: UUID, scope: RunScope | None, session: Session) -> None:
    """Call it for a version, with the task instances of a scope; without one, with all of them.

    Raises:
        VerifyError: it raised.
        RolledBackError: it lost a race.
        DBAPIError: the database.
    """
    session.expire(run, ["task_instances"])
    with _few_task_instances(run, scope, session) if scope else nullcontext():
        try:
            run.verify_integrity(dag_version_id=version, session=session)
        except (DBAPIError, RolledBackError):
            raise
        except Exception as error:
            raise VerifyError from error


@contextmanager
def _few_task_instances(run: DagRun, scope: RunScope, session: Session) -> Iterator[None]:
    """Let verify_integrity load, of the run's TIs, only those that it may change.

    It asks ``run.get_task_instances`` once, in ``run._check_for_removed_or_restored_tasks``, whose answer is the
    task_ids that have a TI.
    """
    tasks = run.dag.task_dict
    changeable = set(scope.restored_tasks or ())
    if scope.has_mapped:
        changeable.update(task_id for task_id, task in tasks.items() if task.get_needs_expansion())
    have_tis = tasks.keys() - changeable - set(scope.missing_tasks or ())
    tis: list[Any] = []
    if changeable:
        tis = run.fetch_task_instances(
            dag_id=run.dag_id, run_id=run.run_id, task_ids=sorted(changeable), session=session
        )
    check = run._check_for_removed_or_restored_tasks
    # Of this object alone.
    run.get_task_instances = lambda *_, **__: tis
    run._check_for_removed_or_restored_tasks = lambda *args, **options: check(*args, **options) | have_tis
    try:
        yield
    finally:
        del run.get_task_instances, run._check_for_removed_or_restored_tasks


@contextmanager
def savepoint(session: Session, guard: Any) -> Iterator[None]:
    """Do a part of a scheduler's transaction that can fail without the rest.

    Args:
        session: the scheduler's.
        guard: what prohibit_commit has made. Up to Airflow 3.3 it takes the end of a savepoint for a commit.

    Raises:
        RolledBackError: in place of a rollback of the whole transaction.
    """

    def rollback() -> NoReturn:
        raise RolledBackError

    outer = session.get_nested_transaction()
    try:
        nested = session.begin_nested()
        session.rollback = rollback  # type: ignore[method-assign]  # of this object alone
        yield
        del session.rollback
        guard.expected_commit = True
        nested.commit()
    except BaseException:
        vars(session).pop("rollback", None)
        while (begun := session.get_nested_transaction()) not in {None, outer}:
            begun.rollback()
        raise
    finally:
        guard.expected_commit = False
