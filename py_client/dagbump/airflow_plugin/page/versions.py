"""The tab of the versions: how many versions each DAG got on each day, and what keeps the old ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from dagbump import client
from dagbump.airflow_plugin.page.access import Viewer
from dagbump.airflow_plugin.page.database import transaction
from dagbump.airflow_plugin.page.listing import Listing
from dagbump.airflow_plugin.page.paging import Slice, begun, cut
from dagbump.results import DagVersions, VersionsByDay

DAYS = 14
# A DAG with this many versions on one day was not edited so often. Something in its file differs at every parse.
INFLATED = 24

BAR_WIDTH, PLOT_HEIGHT = 8, 28


@dataclass(frozen=True)
class Bar:
    """A day in the plot; lengths are in pixels.

    Attributes:
        x: the position of the left edge.
        y: the position of the upper edge, from the top.
        height: the height; 0 if the day has no version.
    """

    x: int
    y: int
    height: int


@dataclass(frozen=True)
class Dag:
    """A DAG in the table.

    Attributes:
        days: the number of versions on each day.
        row: its row of dagbump.versions.
        inflated: True if it got so many versions on one day that something must be wrong.
    """

    days: VersionsByDay
    row: DagVersions
    inflated: bool

    @property
    def bars(self) -> Sequence[Bar]:
        """The plot of the days."""
        return _bars(self.days.by_day)


@dataclass(frozen=True)
class VersionsTab:
    """The contents of the tab; ``inflated`` is the number of inflated DAGs that match and that the viewer may see."""

    dags: Slice[Dag]
    inflated: int


# The columns that a viewer can sort by.
_ORDERS: Mapping[str, Callable[[Dag], Any]] = {
    "dag": lambda dag: dag.row.dag_id,
    "days": lambda dag: sum(dag.days.by_day),
    "last_day": lambda dag: dag.row.versions_last_day,
    "versions": lambda dag: dag.row.versions,
    "latest": lambda dag: dag.row.created_at,
    "behind": lambda dag: dag.row.running_runs_behind,
    "stale_only": lambda dag: dag.row.stale_only,
    "unreferenced": lambda dag: dag.row.unreferenced,
}


def versions_tab(viewer: Viewer, wanted: Listing) -> VersionsTab:
    """Read the versions of all DAGs, sort them, and cut a page of those that the viewer may see.

    The auth manager is asked about the DAGs up to this page, and about the inflated ones.
    """
    with transaction() as connection:
        rows = {row.dag_id: row for row in client.versions(connection)}
        all_days = client.versions_by_day(connection, days=DAYS)
    # A DAG that was made or deleted between the two queries is in one of them only.
    both = (days for days in all_days if days.dag_id in rows)
    found = [_dag(days, rows[days.dag_id]) for days in both if wanted.search.casefold() in days.dag_id.casefold()]
    if order := _ORDERS.get(wanted.column):
        found.sort(key=order, reverse=wanted.is_reversed)
    readable = (dag for dag in found if viewer.readable([dag.row.dag_id]))
    shown = begun(cut(list(islice(readable, wanted.page * wanted.size + 1)), wanted.page, wanted.size))
    return VersionsTab(shown, len(viewer.readable([dag.row.dag_id for dag in found if dag.inflated])))


def _dag(days: VersionsByDay, row: DagVersions) -> Dag:
    return Dag(days, row, max(days.by_day, default=0) >= INFLATED)


def _bars(by_day: Sequence[int]) -> list[Bar]:
    # All DAGs have the same scale, so that plots can be compared. Only an inflated DAG has its own scale.
    scale = PLOT_HEIGHT / max(INFLATED, *by_day)
    heights = [max(2, round(number * scale)) if number else 0 for number in by_day]
    return [Bar(place * (BAR_WIDTH + 2), PLOT_HEIGHT - height, height) for place, height in enumerate(heights)]
