"""What the SQL functions answer, as frozen dataclasses: one field per column, in the same order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
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
        needs_verify: ``verify_integrity`` is due for this run.
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
        missing_tasks: tasks of the version that have no task instance, although Airflow would make one; None where its
            tasks cannot be read.
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
        missing_tasks: tasks of the latest version that have no task instance, although Airflow would make one.
        restored_tasks: tasks of removed task instances that the latest version has.
        vanished_tasks: tasks of unfinished task instances that the latest version no longer has.
        has_mapped: whether the latest version has a mapped task, or a mapped task group.
    """

    dag_run_id: int
    missing_tasks: tuple[str, ...] | None
    restored_tasks: tuple[str, ...] | None
    vanished_tasks: tuple[str, ...] | None
    has_mapped: bool | None


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
