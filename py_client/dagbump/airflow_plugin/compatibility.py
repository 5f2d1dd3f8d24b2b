"""All differences between Airflow's releases that the plugin has to know, and the check of the release."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any, TypeAlias
from uuid import UUID

# Airflow's classes, as names for annotations. They are Any, because Airflow is not installed when types are checked.
DagRun: TypeAlias = Any
SchedulerJobRunner: TypeAlias = Any

SCHEDULER_MODULE = "airflow.jobs.scheduler_job_runner"

_RELEASES = ("3.0", "3.1", "3.2", "3.3", "3.4")
_DAG_RUN, _RETRIES, _SESSION = "airflow.models.dagrun", "airflow.utils.retries", "airflow.utils.session"
# Airflow's functions that dagbump replaces or calls. First, for those that it replaces, the modules that define the
# function and its decorators, outermost first. Then the parameters in Airflow 3.0 to 3.4: a list has all of them, in
# each form; a set has those that we pass.
_FUNCTIONS: dict[str, tuple[list[str], list[str] | set[str]]] = {
    "SchedulerJobRunner._schedule_all_dag_runs": ([_RETRIES, SCHEDULER_MODULE], ["self, guard, dag_runs, session"]),
    "SchedulerJobRunner._verify_integrity_if_dag_changed": ([SCHEDULER_MODULE], ["self, dag_run, session"]),
    "DagRun.get_running_dag_runs_to_examine": ([_RETRIES, _DAG_RUN], ["session", "session, eagerly_load_dag_tags"]),
    "DagRun.check_version_id_exists_in_dr": ([], {"dag_version_id", "session"}),
    "DagRun.fetch_task_instances": ([], {"dag_id", "run_id", "task_ids", "session"}),
    "DagRun.verify_integrity": ([], {"dag_version_id", "session"}),
    "SchedulerDagBag._get_dag": ([], {"version_id", "session"}),
}
# The functions of verify_integrity on which dagbump relies to know when it does nothing and which task instances it
# reads.
_CHECK = "_check_for_removed_or_restored_tasks"
_PARTS = [_CHECK, "_create_tasks"]
_PARTS_WITH_REGIONS = [*_PARTS, "_create_initial_tasks", "_return_unmapped_instance_to_sentinel"]  # from 3.4 on


class UnfitError(Exception):
    """This package does not know this Airflow or its configuration; the message says what differs."""


def stats_of(scheduler: ModuleType) -> Any:
    """Return Airflow's Stats."""
    return getattr(scheduler, "Stats", None) or scheduler.stats  # up to 3.2, from 3.3 on


def dag_of_version(runner: SchedulerJobRunner, version: UUID, session: Any) -> Any:
    """Return the DAG of a version, from the scheduler's cache if it is current; None if there is no DAG."""
    return runner.scheduler_dag_bag._get_dag(version, session=session)


@contextmanager
def finding_dags_with(
    runner: SchedulerJobRunner, find: Callable[[DagRun], Any], knows: Callable[[DagRun], bool]
) -> Iterator[None]:
    """Make the scheduler use ``find`` for the DAGs of known runs, while the context is open.

    Args:
        runner: the scheduler.
        find: returns the DAG of a run.
        knows: says whether a run is known. For other runs, Airflow's own function is called.
    """
    bag = runner.scheduler_dag_bag
    name = "get_dag_for_run" if hasattr(bag, "get_dag_for_run") else "get_dag"  # from 3.1 on, 3.0
    stock = getattr(bag, name)
    setattr(
        bag, name, lambda dag_run, session: find(dag_run) if knows(dag_run) else stock(dag_run=dag_run, session=session)
    )
    try:
        yield
    finally:
        delattr(bag, name)


def forget_dag(runner: SchedulerJobRunner, version: UUID) -> None:
    """Drop a DAG from the scheduler's cache, because Airflow up to 3.2 never reads it again, and 3.3 not at once."""
    runner.scheduler_dag_bag._dags.pop(version, None)


def verify_is_airflows_own(scheduler: ModuleType) -> bool:
    """Return whether verify_integrity is the code that dagbump knows, without another plugin's patch."""
    verify = _find(scheduler, "DagRun.verify_integrity")
    names = _PARTS_WITH_REGIONS if knows_regions(scheduler) else _PARTS
    check, *others = [_find(scheduler, f"DagRun.{name}") for name in names]
    return (
        _CHECK in inspect.unwrap(verify).__code__.co_names
        and "get_task_instances" in check.__code__.co_names
        and _makers(verify) == [_SESSION, _DAG_RUN]
        and all(_makers(part) == [_DAG_RUN] for part in (check, *others))
    )


def knows_regions(scheduler: ModuleType) -> bool:
    """Return whether mapped TIs are in regions (from 3.4 on), between which verify_integrity moves them."""
    return hasattr(scheduler.DagRun, "_create_initial_tasks")


def task_instances_are_mutated() -> bool:
    """Return whether the deployment has a task_instance_mutation_hook, which verify_integrity calls for every TI."""
    from airflow import settings

    return not getattr(settings.task_instance_mutation_hook, "is_noop", False)


def examining_without_tis(stock: FunctionType) -> FunctionType | None:
    """Return a DagRun.get_running_dag_runs_to_examine that loads no TI; None if Airflow's own loads none.

    Args:
        stock: Airflow's function without its decorators.
    """
    from sqlalchemy.orm import lazyload

    if not {"joinedload", "task_instances"} <= set(stock.__code__.co_names):  # from 3.2 on
        return None
    # The same code, in which the name joinedload stands for lazyload, the default of the relationship.
    return FunctionType(stock.__code__, stock.__globals__ | {"joinedload": lazyload}, stock.__name__)


def require_known_airflow(scheduler: ModuleType) -> None:
    """Check that dagbump knows this release of Airflow, and that nobody else has patched the same functions.

    Raises:
        UnfitError: the release is unknown, or a function is patched.
    """
    from airflow import __version__ as release

    if ".".join(release.split(".")[:2]) not in _RELEASES:
        raise _unknown(release, f"it knows {', '.join(_RELEASES)}")
    for name, (makers, parameters) in _FUNCTIONS.items():
        function = _find(scheduler, name)
        found = _makers(function)
        if makers and (others := [module for module in found if module not in makers]):
            # Our replacement would bypass the patch, or the retries of both would nest.
            raise UnfitError(
                f"{name} of Airflow {release} is patched by {', '.join(others)}, and dagbump would bypass that"
            )
        if makers and found != makers:
            raise _unknown(release, f"{name} is made by {', '.join(found)}")
        takes = list(inspect.signature(function).parameters)
        fits = parameters <= set(takes) if isinstance(parameters, set) else ", ".join(takes) in parameters
        if not fits:
            raise _unknown(release, f"{name} takes {', '.join(takes)}")


def _unknown(release: str, why: str) -> UnfitError:
    return UnfitError(
        f"it does not know this release of Airflow yet: {release}, whose scheduler is different ({why}). "
        "Nothing is lost: Airflow does its own work, as it would without dagbump. Upgrade dagbump when a release knows "
        "this Airflow; until then, `dagbump run` moves task instances beside the scheduler"
    )


def _makers(function: Any) -> list[str]:
    """Return the modules that define a function and the functions that it wraps, outermost first."""
    wrappers: list[Any] = []
    innermost = inspect.unwrap(function, stop=wrappers.append)  # append returns None, so unwrap does not stop
    return [_maker(layer) for layer in (*wrappers, innermost)]


def _maker(function: Any) -> str:
    # functools.wraps copies __module__, and some wrappers fake __class__. Type and globals are the wrapper's own.
    if type(function) is MethodType:
        function = function.__func__
    if type(function) is FunctionType:
        return str(function.__globals__["__name__"])
    return type(function).__module__


def _find(scheduler: ModuleType, name: str) -> Any:
    from airflow import __version__ as release

    found: Any = scheduler
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise _unknown(release, f"{name} is not there")
    return found
