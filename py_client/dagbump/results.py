"""The rows of the SQL functions as frozen dataclasses, with one field per column in the same order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from dagbump.errors import VersionMismatch

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RowT = TypeVar("RowT", bound="DataclassInstance")


@dataclass(frozen=True)
class RunBump:
    """One row of ``dagbump.bump``: a DAG run in which something changed or is left to do.

    Attributes:
        dag_run_id: ``dag_run.id``.
        dag_id: ``dag_run.dag_id``.
        run_id: ``dag_run.run_id``; the same text may occur in several DAGs.
        dag_version_id: the latest version of the DAG.
        version_number: the number of the latest version.
        bumped: the number of task instances that this call moved to the latest version.
        locked: the number of stale task instances that another transaction has locked. They are left for the next call.
        needs_verify: ``verify_integrity`` is due for this run. In the safe form it is also true if Airflow (up to 3.2)
            regards another version as the latest.
    """

    dag_run_id: int
    dag_id: str
    run_id: str
    dag_version_id: UUID
    version_number: int
    bumped: int
    locked: int
    needs_verify: bool


@dataclass(frozen=True)
class RunPreview:
    """One row of ``dagbump.preview``: a running DAG run that has stale task instances, lacks a task or is unverified.

    Attributes:
        dag_run_id: ``dag_run.id``.
        dag_id: ``dag_run.dag_id``.
        run_id: ``dag_run.run_id``.
        dag_version_id: the latest version of the DAG; None if the DAG has no version.
        version_number: the number of the latest version; None if the DAG has no version.
        stale: the number of unfinished task instances that are not on the latest version. In a pinned run, a task
            instance on the run's own version is not stale either.
        stale_by_state: the same number by state; ``no_status`` stands for NULL, as in Airflow's UI.
        verdict: ``bump``, ``needs_verify``, ``missing_tasks``, ``pinned``, ``versionless``, ``paused``, ``stale_dag``,
            ``not_due``, ``no_serialized_dag`` or ``no_version``.
        versionless: the number of unfinished task instances whose version is NULL.
        missing_tasks: tasks of the latest version that have no task instance or only removed ones, although Airflow
            would create or restore one; None if the version's tasks cannot be read.
        vanished_tasks: tasks of unfinished task instances that the latest version no longer has; None if the version's
            tasks cannot be read.
    """

    dag_run_id: int
    dag_id: str
    run_id: str
    dag_version_id: UUID | None
    version_number: int | None
    stale: int
    stale_by_state: Mapping[str, int]
    verdict: str
    versionless: int
    missing_tasks: tuple[str, ...] | None
    vanished_tasks: tuple[str, ...] | None


@dataclass(frozen=True)
class RunScope:
    """One row of ``dagbump.verify_scope``: what Airflow's ``verify_integrity`` would find in a running DAG run.

    All fields except ``dag_run_id`` are None if the tasks of the latest version cannot be read.

    Attributes:
        dag_run_id: ``dag_run.id``.
        missing_tasks: tasks of the latest version that have no task instance or only removed ones, although Airflow
            would create or restore one.
        restored_tasks: all tasks of the latest version that have removed task instances; some of them are also in
            ``missing_tasks``.
        vanished_tasks: tasks of unfinished task instances that the latest version no longer has.
        has_mapped: whether the latest version has a mapped task or a mapped task group.
    """

    dag_run_id: int
    missing_tasks: tuple[str, ...] | None
    restored_tasks: tuple[str, ...] | None
    vanished_tasks: tuple[str, ...] | None
    has_mapped: bool | None


@dataclass(frozen=True)
class Holder:
    """One row of ``dagbump.holders``: a locked row that a bump leaves alone, and a transaction that has locked it.

    Attributes:
        dag_run_id: ``dag_run.id`` of the run that has to wait.
        dag_id: ``dag_run.dag_id``.
        run_id: ``dag_run.run_id``.
        held: the kind of the locked row. It is ``task_instance``, or ``dag_version`` if the version is locked that the
            stale task instances of the run would get; then all of them wait.
        task_id: the task of the locked task instance; None for a ``dag_version``.
        map_index: the map index of the locked task instance; None for a ``dag_version``.
        pid: the backend's process id; None for a prepared transaction, or if no backend is found.
        usename: the backend's role, or the owner of the prepared transaction.
        application_name: as in ``pg_stat_activity``.
        client_addr: as in ``pg_stat_activity``, as text; None for a Unix socket, or if dagbump may not see it.
        state: as in ``pg_stat_activity``; ``prepared`` for a prepared transaction.
        xact_start: when the transaction began or, for a prepared transaction, was prepared.
        gid: the identifier of a prepared transaction.
        certain: False if several transactions are shown for this row, and one of them is the holder.
    """

    dag_run_id: int
    dag_id: str
    run_id: str
    held: str
    task_id: str | None
    map_index: int | None
    pid: int | None
    usename: str | None
    application_name: str | None
    client_addr: str | None
    state: str | None
    xact_start: datetime | None
    gid: str | None
    certain: bool


@dataclass(frozen=True)
class DagVersions:
    """One row of ``dagbump.versions``: the versions of a DAG, and what keeps the old ones.

    Attributes:
        dag_id: the DAG.
        versions: the number of versions.
        versions_last_day: the number of versions created in the last 24 hours.
        version_number: the number of the latest version.
        created_at: when the latest version was created.
        unreferenced: the number of older versions to which no task instance refers.
        stale_only: the number of older versions to which only stale task instances of examined runs refer.
        running_runs_behind: the number of examined runs that have stale task instances.
    """

    dag_id: str
    versions: int
    versions_last_day: int
    version_number: int
    created_at: datetime
    unreferenced: int
    stale_only: int
    running_runs_behind: int


@dataclass(frozen=True)
class CheckItem:
    """One row of ``dagbump.check``.

    Attributes:
        item: the thing that was checked.
        ok: True if there is nothing to do.
        detail: what was found, and what to do if it is not ok.
    """

    item: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class HistoryEntry:
    """One row of ``dagbump.history``: a DAG run in which one call moved task instances.

    Attributes:
        bumped_at: the time of the call, from the database's clock.
        bumped_by: the role that had connected.
        application_name: the application name of its session.
        dag_run_id: ``dag_run.id``. The run and the versions may have been deleted since.
        dag_id: ``dag_run.dag_id``.
        run_id: ``dag_run.run_id``.
        from_versions: the versions that the task instances were on, the lowest first. Each has ``dag_version_id`` and
            ``version_number`` (both None for task instances without a version), and ``task_instances``, their number.
        dag_version_id: the version to which they were moved.
        version_number: the number of that version.
        bumped: the number of task instances that were moved, from all versions.
        caller: the text that was given to `bump` as ``caller``; None if there was none.
    """

    bumped_at: datetime
    bumped_by: str
    application_name: str
    dag_run_id: int
    dag_id: str
    run_id: str
    from_versions: tuple[Mapping[str, Any], ...]
    dag_version_id: UUID
    version_number: int
    bumped: int
    caller: str | None = None

    @cached_property
    def came_from(self) -> str:
        """``from_versions`` as text, for example ``none (1), 3 (12)``."""
        counts = ((version["version_number"], version["task_instances"]) for version in self.from_versions)
        return ", ".join(f"{'none' if number is None else number} ({count})" for number, count in counts)


@dataclass(frozen=True)
class RepairableRun:
    """One row of ``dagbump.repairable``: a DAG run that a repair has to visit.

    Attributes:
        dag_run_id: ``dag_run.id``.
        task_instances: the number of task instances that the repair has to move.
        needs_verify: ``verify_integrity`` is due, so the repair leaves the run to Airflow.
    """

    dag_run_id: int
    task_instances: int
    needs_verify: bool


@dataclass(frozen=True)
class RepairBatch:
    """The row of ``dagbump.repair_batch``: what one batch of a repair has done.

    Attributes:
        looked_at: the number of runs, counted from the first, that need no further batch.
        task_instances: the number of task instances that were moved.
        moved_runs: the runs whose task instances were moved.
        locked_task_instances: the number of stale task instances that other transactions have locked.
        locked_runs: the runs of these locked task instances.
        unverified_runs: the number of runs that are left to Airflow, because ``verify_integrity`` is due.
    """

    looked_at: int
    task_instances: int
    moved_runs: tuple[int, ...]
    locked_task_instances: int
    locked_runs: tuple[int, ...]
    unverified_runs: int


@dataclass(frozen=True)
class RunningRun:
    """One row of ``dagbump.running``: a running DAG run, with its verdict and its counts.

    Attributes:
        dag_run_id: ``dag_run.id``.
        dag_id: ``dag_run.dag_id``.
        run_id: ``dag_run.run_id``.
        version_number: the number of the latest version, in a pinned run of its own version; None if there is none.
        pinned: whether the run is pinned.
        verdict: as in `RunPreview`; None if ``dagbump.preview`` does not show the run.
        unfinished: the number of unfinished task instances.
        stale: the number of stale task instances.
        stale_running: how many of the stale ones are running.
        queued_versionless: the number of queued task instances whose version is NULL.
        missing_or_vanished: the number of tasks that are missing or have vanished. Without a search, 0 in an unverified
            run.
        dag_found: whether the search is a part of the DAG's id.
        run_found: whether it is a part of the run's id.
        task_found: whether it is a part of a task's id.
        task_behind: whether such a task is stale, is missing or has vanished.
    """

    dag_run_id: int
    dag_id: str
    run_id: str
    version_number: int | None
    pinned: bool
    verdict: str | None
    unfinished: int
    stale: int
    stale_running: int
    queued_versionless: int
    missing_or_vanished: int
    dag_found: bool = False
    run_found: bool = False
    task_found: bool = False
    task_behind: bool = False


@dataclass(frozen=True)
class TaskOfRun:
    """One row of ``dagbump.tasks_of_run``: a missing task, or a stale or vanished task instance.

    Attributes:
        task_id: the task.
        map_index: the map index of the task instance; None if the task is missing.
        state: the state; ``no_status`` stands for NULL. None if the task is missing.
        version_number: the number of its version; None if it has none, or if the task is missing.
        stale: whether it is stale.
        missing: whether the run lacks the task.
        vanished: whether the version no longer has the task.
        total: the number of these rows on all pages.
    """

    task_id: str
    map_index: int | None
    state: str | None
    version_number: int | None
    stale: bool
    missing: bool
    vanished: bool
    total: int


@dataclass(frozen=True)
class VersionsByDay:
    """One row of ``dagbump.versions_by_day``: how fast a DAG gets new versions.

    Attributes:
        dag_id: ``dag_version.dag_id``.
        versions: the number of all its versions.
        by_day: the number of versions created on each of the last days, the oldest day first. A day is 24 hours; the
            last one ends now.
    """

    dag_id: str
    versions: int
    by_day: tuple[int, ...]


@dataclass(frozen=True)
class VersionOfRun:
    """One row of ``dagbump.versions_of_runs``: a version that unfinished task instances of a run are on.

    Attributes:
        dag_run_id: ``dag_run.id``.
        version_number: the number of the version; None for task instances without a version.
        task_instances: the number of unfinished task instances on it.
    """

    dag_run_id: int
    version_number: int | None
    task_instances: int


@dataclass(frozen=True)
class BumpResult:
    """All rows of one call of ``dagbump.bump``; there are none if nothing changed."""

    runs: tuple[RunBump, ...]

    @cached_property
    def bumped(self) -> int:
        """The number of task instances that were moved, over all runs."""
        return sum(run.bumped for run in self.runs)

    @cached_property
    def locked(self) -> int:
        """The number of stale task instances that are locked and left for the next call, over all runs."""
        return sum(run.locked for run in self.runs)

    @cached_property
    def needs_verify(self) -> tuple[RunBump, ...]:
        """The runs for which ``verify_integrity`` is due."""
        return tuple(run for run in self.runs if run.needs_verify)


def from_rows(kind: type[RowT], rows: Iterable[Mapping[str, Any]]) -> tuple[RowT, ...]:
    """Build one object per row; columns are found by name.

    Unknown columns are ignored, because a newer revision may add some.

    Raises:
        VersionMismatch: a column is missing.
    """
    columns = {field.name: str(field.type) for field in fields(kind)}
    try:
        return tuple(
            kind(**{name: _python_value(annotation, row[name]) for name, annotation in columns.items()}) for row in rows
        )
    except KeyError as missing:
        raise VersionMismatch(
            f"the installed dagbump does not answer the column {missing}: run `dagbump upgrade`."
        ) from None


def _python_value(annotation: str, value: Any) -> Any:
    """Convert a driver's value to the field's type, because psycopg2 returns a uuid as text, and asyncpg a jsonb."""
    if isinstance(value, bytes):  # psycopg returns text as bytes if the encoding is SQL_ASCII
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, str) and annotation.startswith("UUID"):
        return UUID(value)
    if isinstance(value, str) and annotation.startswith("Mapping"):
        return json.loads(value)
    if isinstance(value, list) and annotation.startswith("tuple"):
        return tuple(_python_value("str", item) for item in value)
    return value
