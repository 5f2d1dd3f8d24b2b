"""Calls verify_integrity only if it would do something, and lets it load only the task instances that it needs.

In a running run, verify_integrity does three things, the same in Airflow 3.0 to 3.4. It restores REMOVED TIs whose task
is in the DAG. It compares the indexes of mapped TIs with the length of the input that they are mapped over. It creates
a TI for each task that has none. The first two need the TIs themselves. The third needs only the task_ids of all other
TIs, which `dagbump.verify_scope` reads from the database. If the deployment has a task_instance_mutation_hook,
verify_integrity is called unchanged, because the hook must see every TI.

verify_integrity does not only add. It sets every mapped TI of a task to REMOVED, whatever its state, while the task's
upstream cannot be counted. Airflow calls it once per version. So a call that Airflow would not make may only add what
is missing.
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
    """verify_integrity tried to roll back the scheduler's transaction, because another one has created the same TI."""

    def __init__(self) -> None:
        super().__init__("another transaction has created the same task instance")


class VerifyError(Exception):
    """verify_integrity raised the error that is the ``__cause__`` of this one."""


def would_do_nothing(scope: RunScope) -> bool:
    """Return whether verify_integrity would change nothing."""
    return not (scope.missing_tasks or scope.restored_tasks or scope.has_mapped)


def only_what_is_missing(scope: RunScope) -> RunScope:
    """Return the scope without the tasks that have live task instances."""
    missing = set(scope.missing_tasks or ())
    restored = tuple(task for task in scope.restored_tasks or () if task in missing)
    return replace(scope, restored_tasks=restored, has_mapped=False)


def verify_integrity(run: DagRun, version: UUID, scope: RunScope | None, session: Session) -> None:
    """Call verify_integrity for a version; it sees the task instances of the scope, or all of them without a scope.

    Raises:
        VerifyError: verify_integrity raised.
        RolledBackError: another transaction created the same task instance first.
        DBAPIError: the database raised.
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
    """Let verify_integrity load only the TIs that it may change.

    verify_integrity calls ``run._check_for_removed_or_restored_tasks``, which returns the task_ids that have a TI. That
    function calls ``run.get_task_instances`` once. Both are replaced on this run.
    """
    tasks = run.dag.task_dict
    changeable = set(scope.restored_tasks or ())
    if scope.has_mapped:
        changeable.update(task_id for task_id, task in tasks.items() if task.get_needs_expansion())
    have_tis = tasks.keys() - changeable - set(scope.missing_tasks or ())
    key = {"dag_id": run.dag_id, "run_id": run.run_id}
    tis = run.fetch_task_instances(**key, task_ids=sorted(changeable), session=session) if changeable else []
    check = run._check_for_removed_or_restored_tasks
    # Replace the methods of this object only.
    run.get_task_instances = lambda *_, **__: tis
    run._check_for_removed_or_restored_tasks = lambda *args, **options: check(*args, **options) | have_tis
    try:
        yield
    finally:
        del run.get_task_instances, run._check_for_removed_or_restored_tasks


@contextmanager
def savepoint(session: Session, guard: Any) -> Iterator[None]:
    """Run the body in a savepoint of the scheduler's transaction, so that it can fail alone.

    Args:
        session: the scheduler's session.
        guard: the object that prohibit_commit returns. Up to Airflow 3.3 it takes the end of a savepoint for a commit.

    Raises:
        RolledBackError: the body called ``session.rollback``, which would have rolled back the whole transaction.
    """

    def rollback() -> NoReturn:
        raise RolledBackError

    outer = session.get_nested_transaction()
    try:
        nested = session.begin_nested()
        session.rollback = rollback  # type: ignore[method-assign]  # of this object only
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
