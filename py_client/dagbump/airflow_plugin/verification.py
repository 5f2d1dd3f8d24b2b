"""verify_integrity by the truth: called where it would do something, and with no more task instances than it needs.

What it does on a running run (the same in Airflow 3.0 to 3.4) is to take back REMOVED TIs whose task is in the DAG, to
compare the indexes of mapped TIs with what they are mapped over, and to create the TIs of tasks that have none. For the
first two it needs these TIs; of all others only their task_id, to know which tasks have one. `dagbump.verify_scope` has
that from the database. A task_instance_mutation_hook is shown every TI: where there is one, it is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.orm import Session

from dagbump.airflow_plugin.compatibility import DagRun
from dagbump.results import RunScope


def would_do_nothing(scope: RunScope) -> bool:
    """Say whether verify_integrity would leave everything as it is."""
    return not (scope.missing_tasks or scope.restored_tasks or scope.has_mapped)


@contextmanager
def few_task_instances(run: DagRun, scope: RunScope, session: Session) -> Iterator[None]:
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
