"""The button: it bumps runs in the safe form, if the viewer may edit their DAGs, one batch per request."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, TypeAlias

from pydantic import Field

from dagbump import client
from dagbump.airflow_plugin import callers
from dagbump.airflow_plugin.page import airflow_tables
from dagbump.airflow_plugin.page.access import Viewer
from dagbump.airflow_plugin.page.database import transaction
from dagbump.results import RunBump
from dagbump.wording import counted

AUDIT_EVENT = "dagbump_bump"

Number: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True)
class Totals:
    """What the button has done, over all batches so far.

    Attributes:
        task_instances: how many were moved.
        moved: in how many runs.
        locked: how many task instances another transaction has locked.
        unverified: how many runs are left to the scheduler.
        unchanged: how many runs were on the latest version already.
        not_examined: how many runs a bump no longer examines, for example because they have ended.
        refused: how many runs the viewer may not move, or have been deleted.
    """

    task_instances: Number = 0
    moved: Number = 0
    locked: Number = 0
    unverified: Number = 0
    unchanged: Number = 0
    not_examined: Number = 0
    refused: Number = 0

    def __add__(self, other: Totals) -> Totals:
        mine, others = asdict(self), asdict(other)
        return Totals(**{name: mine[name] + others[name] for name in mine})


@dataclass(frozen=True)
class BumpReport:
    """The result of the button.

    Attributes:
        totals: what this batch and those before it have done.
        is_first: whether there was no batch before it.
        sentence: the same in words.
        runs: the runs of this batch in which something was moved or is left.
    """

    totals: Totals
    is_first: bool
    sentence: str
    runs: Sequence[RunBump]

    @property
    def so_far(self) -> str:
        """The totals as JSON, for the request of the next batch."""
        return json.dumps(asdict(self.totals))


def bump(viewer: Viewer, dag_run_ids: Sequence[int], so_far: Totals) -> BumpReport:
    """Bump the runs, and commit.

    Args:
        viewer: the user who pressed the button.
        dag_run_ids: the runs of this batch. Runs of DAGs that the user may not edit are skipped.
        so_far: the totals of the batches before it.
    """
    dag_of = airflow_tables.dag_ids_of(dag_run_ids)
    editable = viewer.editable(viewer.readable(sorted(set(dag_of.values()))))
    _audit(viewer, dag_run_ids, dag_of, editable)
    allowed = [run for run, dag_id in dag_of.items() if dag_id in editable]
    with transaction() as connection:
        # With report_all, the answer tells runs that somebody else has bumped from runs that are no longer examined.
        result = client.bump(
            connection,
            dag_run_ids=allowed,
            dag_ids=sorted(editable),
            report_all=True,
            caller=callers.page(viewer.name),
        )
    runs = [run for run in result.runs if run.bumped or run.locked or run.needs_verify]
    totals = so_far + Totals(
        task_instances=result.bumped,
        moved=sum(run.bumped > 0 for run in runs),
        locked=result.locked,
        unverified=len(result.needs_verify),
        unchanged=len(result.runs) - len(runs),
        not_examined=len(allowed) - len(result.runs),
        refused=len(set(dag_run_ids)) - len(allowed),
    )
    return BumpReport(totals, so_far == Totals(), " ".join(_sentences(totals)), runs)


def _audit(viewer: Viewer, dag_run_ids: Sequence[int], dag_of: Mapping[int, str], editable: Collection[str]) -> None:
    """Write an entry for each DAG into Airflow's audit log, also for what is refused."""
    runs_of: dict[str | None, list[int]] = defaultdict(list)
    for run in dag_run_ids:
        runs_of[dag_of.get(run)].append(run)
    airflow_tables.write_audit_log(
        AUDIT_EVENT,
        viewer.name,
        {dag_id: {"dag_run_ids": runs, "refused": dag_id not in editable} for dag_id, runs in runs_of.items()},
    )


def _sentences(totals: Totals) -> Iterator[str]:
    if totals.task_instances:
        yield f"Moved {counted(totals.task_instances, 'task instance')} of {counted(totals.moved, 'run')}."
    else:
        yield "Nothing was moved."
    if totals.locked:
        yield f"{counted(totals.locked, 'task instance')} left, because another transaction has locked them."
    if totals.unverified:
        runs = counted(totals.unverified, "run")
        yield f"{runs} left to the scheduler, which has to create the tasks of a new version first."
    if totals.unchanged:
        runs = counted(totals.unchanged, "run")
        yield f"{runs} had nothing to move any more: the scheduler, or another user, was quicker."
    if totals.not_examined:
        runs = counted(totals.not_examined, "run")
        yield f"{runs} left alone, because a bump looks only at running runs whose Dag is not paused."
    if totals.refused:
        yield f"{counted(totals.refused, 'run')} left, because you may not edit their Dag, or because they are gone."
