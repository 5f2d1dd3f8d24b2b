"""The tasks of an open run that are not as they should be, one page of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from dagbump import client
from dagbump.airflow_plugin.page.filter import Filter
from dagbump.airflow_plugin.page.paging import Slice, slice_of
from dagbump.results import Holder, RunningRun, TaskOfRun

PER_PAGE = 25


@dataclass(frozen=True)
class Task:
    """A task, or a task instance.

    Attributes:
        row: its row of dagbump.tasks_of_run.
        what: what is the matter with it, for example ``stale, locked``.
    """

    row: TaskOfRun
    what: str

    @property
    def map_index(self) -> int | None:
        """The map index of a task instance of a mapped task; otherwise None."""
        return None if self.row.map_index == -1 else self.row.map_index

    @property
    def state(self) -> str:
        """The state, as Airflow's UI calls it."""
        return (self.row.state or "not there").replace("no_status", "no status")


def tasks_of(
    connection: sa.engine.Connection, run: RunningRun, holders: Sequence[Holder], wanted: Filter
) -> Slice[Task]:
    """Return the page of tasks that is wanted; if only tasks match the search, the page has only these."""
    search = wanted.search if run.task_behind and not (run.dag_found or run.run_found) else None
    page = wanted.tasks
    rows = client.tasks_of_run(connection, run.dag_run_id, search, page, PER_PAGE)
    if not rows and page > 1:  # there are fewer tasks than when somebody made the link
        page = 1
        rows = client.tasks_of_run(connection, run.dag_run_id, search, page, PER_PAGE)
    shown = slice_of(rows, rows[0].total if rows else 0, page, PER_PAGE)
    locked = {(holder.task_id, holder.map_index) for holder in holders}
    return shown.of(Task(row, _what(row, locked)) for row in shown.rows)


def _what(row: TaskOfRun, locked: Collection[tuple[str | None, int | None]]) -> str:
    true = {
        "missing": row.missing,
        "gone from the version": row.vanished,
        "stale": row.stale,
        "locked": (row.task_id, row.map_index) in locked,
    }
    return ", ".join(what for what, is_so in true.items() if is_so)
