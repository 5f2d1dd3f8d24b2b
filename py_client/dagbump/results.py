"""What the SQL functions answer, as frozen dataclasses: one field per column, in the same order."""

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
    """One row of ``dagbump.bump``: a DAG run in which something changed, or has to.

    Attributes:
        dag_run_id: ``dag_run.id``.
        dag_id: ``dag_run.dag_id``.
        run_id: ``dag_run.run_id``; the same text may occur in several DAGs.
        dag_version_id: the latest version of the DAG.
        version_number: its number.
        bumped: task instances moved to it by this call.
        locked: stale task instances left for the next call, because another transaction holds them.
        needs_verify: ``verify_integrity`` is due for this run; or, in the safe form, Airflow up to 3.2 takes another
            version for the latest.
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
    """One row of ``dagbump.preview``: a running DAG run with stale task instances, or that lacks a task or a verify.

    Attributes:
        dag_run_id: ``dag_run.id``.
        dag_id: ``dag_run.dag_id``.
        run_id: ``dag_run.run_id``.
        dag_version_id: the latest version of the DAG, None where it has none.
        version_number: its number, None where it has none.
        stale: unfinished task instances that are not on the latest version; in a pinned run, nor on its own.
        stale_by_state: the same by state; ``no_status`` stands for NULL, as in Airflow's UI.
        verdict: ``bump``, ``needs_verify``, ``missing_tasks``, ``pinned``, ``versionless``, ``paused``, ``stale_dag``,
            ``not_due``, ``no_serialized_dag`` or ``no_version``.
        versionless: unfinished task instances that are on no version at all.
        missing_tasks: tasks of the version that have no task instance but removed ones, although Airflow would make or
            restore one; None where its tasks cannot be read.
        vanished_tasks: tasks of unfinished task instances that the version no longer has; None as above.
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

    All but the first are None where the tasks of the latest version cannot be read.

    Attributes:
        dag_run_id: ``dag_run.id``.
        missing_tasks: tasks of the latest version that have no task instance but removed ones, although Airflow would
            make or restore one.
        restored_tasks: all tasks of removed task instances that the latest version has, the missing ones among them.
        vanished_tasks: tasks of unfinished task instances that the latest version no longer has.
        has_mapped: whether the latest version has a mapped task, or a mapped task group.
    """

    dag_run_id: int
    missing_tasks: tuple[str, ...] | None
    restored_tasks: tuple[str, ...] | None
    vanished_tasks: tuple[str, ...] | None
    has_mapped: bool | None


@dataclass(frozen=True)
class Holder:
    """One row of ``dagbump.holders``: a thing that a bump would leave, and a transaction that holds it.

    Attributes:
        dag_run_id: ``dag_run.id`` of the run that has to wait.
        dag_id: ``dag_run.dag_id``.
        run_id: ``dag_run.run_id``.
        held: ``task_instance``, or ``dag_version``: the latest version, for which all stale task instances wait.
        task_id: of the task instance; None for a ``dag_version``.
        map_index: of the task instance.
        pid: the backend; None for a prepared transaction, and where none is found.
        usename: its role, or the owner of the prepared transaction.
        application_name: as in ``pg_stat_activity``.
        client_addr: the same, as text; None for a socket, and where this is not for dagbump to know.
        state: the same; ``prepared`` for a prepared transaction.
        xact_start: when the transaction began; for a prepared one, when it was prepared.
        gid: of a prepared transaction.
        certain: False: it is one of the transactions that are shown for this thing.
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
        versions: how many there are.
        versions_last_day: those created in the last 24 hours.
        version_number: of the latest.
        created_at: of the latest.
        unreferenced: versions before the latest that no task instance refers to.
        stale_only: versions before the latest that only stale task instances of examined runs refer to.
        running_runs_behind: examined runs that hold stale task instances.
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
        item: what was looked at.
        ok: whether there is nothing to do about it.
        detail: what was found; where it is not ok, what to do.
    """

    item: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class HistoryEntry:
    """One row of ``dagbump.history``: a DAG run in which one call has moved something.

    Attributes:
        bumped_at: when, by the database's clock.
        bumped_by: the role that had connected.
        application_name: that of its session.
        dag_run_id: ``dag_run.id``; the run may be gone by now, as may the versions.
        dag_id: ``dag_run.dag_id``.
        run_id: ``dag_run.run_id``.
        from_versions: the versions that the task instances were on, the lowest first: ``dag_version_id``,
            ``version_number`` (both None: on none) and ``task_instances``, how many.
        dag_version_id: the version that they are on since.
        version_number: its number.
        bumped: how many task instances, over all versions.
        caller: who called, in the words that were given to `bump`; None: nobody said.
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
        """``from_versions`` in words: ``none (1), 3 (12)``."""
        counts = ((version["version_number"], version["task_instances"]) for version in self.from_versions)
        return ", ".join(f"{'none' if number is None else number} ({count})" for number, count in counts)


@dataclass(frozen=True)
class RepairableRun:
    """One row of ``dagbump.repairable``: a DAG run that a repair goes through.

    Attributes:
        dag_run_id: ``dag_run.id``.
        task_instances: those that it has to move.
        needs_verify: ``verify_integrity`` is due: the repair leaves the run to Airflow.
    """

    dag_run_id: int
    task_instances: int
    needs_verify: bool


@dataclass(frozen=True)
class RepairBatch:
    """The row of ``dagbump.repair_batch``: what one batch of a repair has done.

    Attributes:
        looked_at: the first so many of its runs are done with.
        task_instances: moved.
        moved_runs: the runs that these are in.
        locked_task_instances: stale ones that other transactions hold.
        locked_runs: the runs that these are in.
        unverified_runs: left to Airflow.
    """

    looked_at: int
    task_instances: int
    moved_runs: tuple[int, ...]
    locked_task_instances: int
    locked_runs: tuple[int, ...]
    unverified_runs: int


@dataclass(frozen=True)
class Running:
    """The row of ``dagbump.running``: what there is to keep on the latest version.

    Attributes:
        dag_runs: that are running.
        task_instances: those of them that are unfinished.
    """

    dag_runs: int
    task_instances: int


@dataclass(frozen=True)
class VersionsByDay:
    """One row of ``dagbump.versions_by_day``: how fast a DAG gets new versions.

    Attributes:
        dag_id: ``dag_version.dag_id``.
        versions: all that there are.
        by_day: those of each of the last days, the oldest first; a day is 24 hours, the last one up to now.
    """

    dag_id: str
    versions: int
    by_day: tuple[int, ...]


@dataclass(frozen=True)
class VersionOfRun:
    """One row of ``dagbump.versions_of_runs``: a version that unfinished task instances of a run are on.

    Attributes:
        dag_run_id: ``dag_run.id``.
        version_number: None: they are on none.
        task_instances: how many.
    """

    dag_run_id: int
    version_number: int | None
    task_instances: int


@dataclass(frozen=True)
class BumpResult:
    """All rows of one call of ``dagbump.bump``; empty where nothing changed."""

    runs: tuple[RunBump, ...]

    @cached_property
    def bumped(self) -> int:
        """Task instances moved, over all runs."""
        return sum(run.bumped for run in self.runs)

    @cached_property
    def locked(self) -> int:
        """Stale task instances left for the next call, over all runs."""
        return sum(run.locked for run in self.runs)

    @cached_property
    def needs_verify(self) -> tuple[RunBump, ...]:
        """The runs for which ``verify_integrity`` is due."""
        return tuple(run for run in self.runs if run.needs_verify)


def from_rows(kind: type[RowT], rows: Iterable[Mapping[str, Any]]) -> tuple[RowT, ...]:
    """Build one object per row, columns by name.

    Columns that this client does not know are ignored: a newer revision may add some.

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
    """Make of a driver's value what a field of that type holds. psycopg2 answers a uuid as text, asyncpg a jsonb."""
    if isinstance(value, bytes):  # psycopg's text where the encoding is SQL_ASCII
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, str) and annotation.startswith("UUID"):
        return UUID(value)
    if isinstance(value, str) and annotation.startswith("Mapping"):
        return json.loads(value)
    if isinstance(value, list) and annotation.startswith("tuple"):
        return tuple(_python_value("str", item) for item in value)
    return value
