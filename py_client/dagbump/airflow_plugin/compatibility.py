"""What differs between Airflow's releases, and which of them dagbump knows. No other module of the plugin says."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, TypeAlias
from uuid import UUID

# Airflow's, by the names that they have there. Airflow is not there when types are checked.
DagRun: TypeAlias = Any
DagVersion: TypeAlias = Any
SchedulerJobRunner: TypeAlias = Any

SCHEDULER_MODULE = "airflow.jobs.scheduler_job_runner"

_RELEASES = ("3.0", "3.1", "3.2", "3.3", "3.4")
# Parameters by name, as Airflow 3.0 to 3.4 have them: of a function that is replaced, all; of one that is called, ours.
_REPLACED = {
    "SchedulerJobRunner._schedule_all_dag_runs": [["self", "guard", "dag_runs", "session"]],
    "SchedulerJobRunner._verify_integrity_if_dag_changed": [["self", "dag_run", "session"]],
    "DagRun.get_running_dag_runs_to_examine": [["session"], ["session", "eagerly_load_dag_tags"]],  # from 3.4 on
}
_CALLED = {
    "DagRun.check_version_id_exists_in_dr": {"dag_version_id", "session"},
    "DagRun.fetch_task_instances": {"dag_id", "run_id", "task_ids", "session"},
    "DagRun.verify_integrity": {"dag_version_id", "session"},
    "DagVersion.get_latest_version": {"dag_id", "session"},
    "SchedulerDagBag._get_dag": {"version_id", "session"},
}
# The modules in which that which is replaced, and what decorates it, were written, the outermost first.
_MAKERS = {
    "SchedulerJobRunner._schedule_all_dag_runs": ["airflow.utils.retries", SCHEDULER_MODULE],
    "SchedulerJobRunner._verify_integrity_if_dag_changed": [SCHEDULER_MODULE],
    "DagRun.get_running_dag_runs_to_examine": ["airflow.utils.retries", "airflow.models.dagrun"],
    "DagVersion.get_latest_version": ["airflow.utils.session", "airflow.models.dag_version"],
}
# What verify_integrity consists of, as far as dagbump relies on it: to know when it does nothing, and what it reads.
_CHECK = "_check_for_removed_or_restored_tasks"
_VERIFY = {
    "DagRun.verify_integrity": ["airflow.utils.session", "airflow.models.dagrun"],
    f"DagRun.{_CHECK}": ["airflow.models.dagrun"],
    "DagRun._create_tasks": ["airflow.models.dagrun"],
}
# And from 3.4 on:
_VERIFY_REGIONS = {
    "DagRun._create_initial_tasks": ["airflow.models.dagrun"],
    "DagRun._return_unmapped_instance_to_sentinel": ["airflow.models.dagrun"],
}


class UnfitError(Exception):
    """Airflow, or its configuration, is not what this package knows; the message says where."""


def stats_of(scheduler: ModuleType) -> Any:
    """Return Airflow's Stats."""
    return getattr(scheduler, "Stats", None) or scheduler.stats  # up to 3.2, from 3.3 on


def dag_of_version(runner: SchedulerJobRunner, version: UUID, session: Any) -> Any:
    """Return the DAG of a version, from the scheduler's cache where that is current; None where there is none."""
    return runner.scheduler_dag_bag._get_dag(version, session=session)


@contextmanager
def finding_dags_with(
    runner: SchedulerJobRunner, find: Callable[[DagRun], Any], knows: Callable[[DagRun], bool]
) -> Iterator[None]:
    """Let this scheduler find the DAGs of the runs that are known in another way, for as long as this goes on."""
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
    """Let a scheduler read the DAG of a version anew: up to 3.2 it never does, and from 3.3 on not at once."""
    runner.scheduler_dag_bag._dags.pop(version, None)


def verify_is_airflows_own(scheduler: ModuleType) -> bool:
    """Say whether verify_integrity is that which dagbump knows, and nobody else's patch has to be called with it."""
    verify, check = map(partial(_find, scheduler), ("DagRun.verify_integrity", f"DagRun.{_CHECK}"))
    parts = _VERIFY | (_VERIFY_REGIONS if knows_regions(scheduler) else {})
    return (
        _CHECK in inspect.unwrap(verify).__code__.co_names
        and "get_task_instances" in check.__code__.co_names
        and all(_makers(_find(scheduler, name)) == makers for name, makers in parts.items())
    )


def knows_regions(scheduler: ModuleType) -> bool:
    """Say whether TIs of mapped tasks lie in regions (from 3.4 on), between which verify_integrity moves them."""
    return hasattr(scheduler.DagRun, "_create_initial_tasks")


def dag_details(dag_ids: Collection[str]) -> list[Any]:
    """Return what an auth manager is told of each of these DAGs: its id and, where there are teams, its team's name."""
    from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails
    from airflow.configuration import conf
    from airflow.models.dag import DagModel

    if not conf.getboolean("core", "multi_team", fallback=False):  # there are none up to 3.1
        return [DagDetails(id=dag_id) for dag_id in dag_ids]
    teams = DagModel.get_dag_id_to_team_name_mapping(list(dag_ids))
    return [DagDetails(id=dag_id, team_name=teams.get(dag_id)) for dag_id in dag_ids]


def task_instances_are_mutated() -> bool:
    """Say whether the deployment has a task_instance_mutation_hook, which verify_integrity shows every TI."""
    from airflow import settings

    return not getattr(settings.task_instance_mutation_hook, "is_noop", False)


def examining_without_tis(stock: FunctionType) -> FunctionType | None:
    """Return DagRun.get_running_dag_runs_to_examine as it loads no task instance; None where Airflow's does not.

    Args:
        stock: Airflow's, without its decorators.
    """
    from sqlalchemy.orm import lazyload

    if not {"joinedload", "task_instances"} <= set(stock.__code__.co_names):  # from 3.2 on
        return None
    # The same code, in which joinedload(task_instances) is lazyload, the default.
    return FunctionType(stock.__code__, stock.__globals__ | {"joinedload": lazyload}, stock.__name__)


def require_known_airflow(scheduler: ModuleType) -> None:
    """Look whether Airflow is one that dagbump knows, and whether it is only Airflow.

    Raises:
        UnfitError: it is not.
    """
    from airflow import __version__ as release

    if ".".join(release.split(".")[:2]) not in _RELEASES:
        raise _unknown(release, f"it knows {', '.join(_RELEASES)}")
    for name, expected in _MAKERS.items():
        found = _makers(_find(scheduler, name))
        if others := [module for module in found if module not in expected]:
            # Nobody would call the patch, and its retries would nest.
            raise UnfitError(
                f"{name} of Airflow {release} is patched by {', '.join(others)}, and dagbump would bypass that"
            )
        if found != expected:
            raise _unknown(release, f"{name} is made by {', '.join(found)}")
    for name, forms in _REPLACED.items():
        if (found := _parameters(scheduler, name)) not in forms:
            raise _unknown(release, f"{name} takes {', '.join(found)}")
    for name, needed in _CALLED.items():
        if not needed <= set(found := _parameters(scheduler, name)):
            raise _unknown(release, f"{name} takes {', '.join(found)}")


def _unknown(release: str, why: str) -> UnfitError:
    return UnfitError(
        f"it does not know this release of Airflow yet: {release}, where the scheduler is written otherwise ({why}). "
        "Nothing is lost: Airflow does its own work, as it would without dagbump. Upgrade dagbump when a release knows "
        "this Airflow; until then, `dagbump run` moves task instances beside the scheduler"
    )


def _makers(function: Any) -> list[str]:
    """Return the modules in which a function, and what it wraps, were written, the outermost first."""
    wrappers: list[Any] = []
    innermost = inspect.unwrap(function, stop=wrappers.append)  # which returns None: do not stop
    return [_maker(layer) for layer in (*wrappers, innermost)]


def _maker(function: Any) -> str:
    # A wrapper passes itself off as what it wraps, by its __module__, or even its __class__; not by type and globals.
    if type(function) is MethodType:
        function = function.__func__
    if type(function) is FunctionType:
        return str(function.__globals__["__name__"])
    return type(function).__module__


def _parameters(scheduler: ModuleType, name: str) -> list[str]:
    return list(inspect.signature(_find(scheduler, name)).parameters)


def _find(scheduler: ModuleType, name: str) -> Any:
    from airflow import __version__ as release

    found: Any = scheduler
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise _unknown(release, f"{name} is not there")
    return found
