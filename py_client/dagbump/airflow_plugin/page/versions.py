"""The tab of the versions: how many versions each DAG got on each day, and what keeps the old ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from dagbump import client
from dagbump.airflow_plugin.page.access import Viewer
from dagbump.airflow_plugin.page.database import transaction
from dagbump.airflow_plugin.page.paging import Slice, cut_begun
from dagbump.results import DagVersions, VersionsByDay

PER_PAGE = 25
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
        bars: the plot of the days.
        inflated: True if it got so many versions on one day that something must be wrong.
    """

    days: VersionsByDay
    row: DagVersions
    bars: Sequence[Bar]
    inflated: bool


@dataclass(frozen=True)
class VersionsTab:
    """The contents of the tab; ``inflated`` is the number of inflated DAGs that match and that the viewer may see."""

    search: str
    dags: Slice[Dag]
    inflated: int


def versions_tab(viewer: Viewer, search: str, page: int) -> VersionsTab:
    """Count versions per day for all DAGs, to sort them; run the expensive query only for the DAGs of this page.

    The auth manager is asked about the DAGs up to this page, and about the inflated ones.
    """
    with transaction() as connection:
        all_days = client.versions_by_day(connection, days=DAYS)
    named = [days for days in all_days if search.casefold() in days.dag_id.casefold()]
    shown = cut_begun(list(islice(_readable(viewer, named), page * PER_PAGE + 1)), page, PER_PAGE)
    inflated = viewer.readable([days.dag_id for days in named if _is_inflated(days)])
    with transaction() as connection:
        rows = {row.dag_id: row for row in client.versions(connection, [days.dag_id for days in shown.rows])}
    # A DAG that was deleted between the two queries has no row.
    dags = [_dag(days, rows[days.dag_id]) for days in shown.rows if days.dag_id in rows]
    return VersionsTab(search, shown.of(dags), len(inflated))


def _readable(viewer: Viewer, dags: Iterable[VersionsByDay]) -> Iterator[VersionsByDay]:
    return (days for days in dags if viewer.readable([days.dag_id]))


def _dag(days: VersionsByDay, row: DagVersions) -> Dag:
    return Dag(days, row, _bars(days.by_day), _is_inflated(days))


def _is_inflated(days: VersionsByDay) -> bool:
    return max(days.by_day, default=0) >= INFLATED


def _bars(by_day: Sequence[int]) -> list[Bar]:
    # All DAGs have the same scale, so that few versions look few. Only an inflated DAG has a scale of its own.
    scale = PLOT_HEIGHT / max(INFLATED, *by_day)
    heights = [max(2, round(number * scale)) if number else 0 for number in by_day]
    return [Bar(place * (BAR_WIDTH + 2), PLOT_HEIGHT - height, height) for place, height in enumerate(heights)]
