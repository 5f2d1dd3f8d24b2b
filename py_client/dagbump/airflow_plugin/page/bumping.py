"""The button: it bumps the runs that were shown, in the safe form, if the viewer may edit their DAGs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dagbump import client
from dagbump.airflow_plugin import callers
from dagbump.airflow_plugin.page import airflow_tables
from dagbump.airflow_plugin.page.access import Viewer
from dagbump.airflow_plugin.page.database import transaction
from dagbump.results import BumpResult, RunBump
from dagbump.wording import counted

AUDIT_EVENT = "dagbump_bump"


@dataclass(frozen=True)
class BumpReport:
    """The result of the button.

    Attributes:
        sentence: the result in one sentence.
        runs: the rows that the bump returned.
    """

    sentence: str
    runs: Sequence[RunBump]


def bump(viewer: Viewer, dag_run_ids: Sequence[int]) -> BumpReport:
    """Bump the runs, and commit.

    Args:
        viewer: the user who pressed the button.
        dag_run_ids: the runs that were shown. Runs of DAGs that the user may not edit are skipped.
    """
    airflow_tables.write_audit_log(AUDIT_EVENT, viewer.name, dag_run_ids=dag_run_ids)
    editable = viewer.editable(viewer.readable(airflow_tables.dag_ids_of(dag_run_ids)))
    with transaction() as connection:
        result = client.bump(
            connection, dag_run_ids=dag_run_ids, dag_ids=sorted(editable), caller=callers.page(viewer.name)
        )
    return BumpReport(_sentence(result), result.runs)


def _sentence(result: BumpResult) -> str:
    moved = sum(run.bumped > 0 for run in result.runs)
    said = (
        f"Moved {counted(result.bumped, 'task instance')} of {counted(moved, 'run')}."
        if result.bumped
        else "Nothing was moved."
    )
    if result.locked:
        said += f" {counted(result.locked, 'task instance')} left, because another transaction has locked them."
    if result.needs_verify:
        said += f" {counted(len(result.needs_verify), 'run')} left to the scheduler, which has to verify them first."
    if not result.runs:
        said += " The scheduler, or another user, was quicker."
    return said
