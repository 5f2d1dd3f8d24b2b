"""The tab of the history: what has been moved, by whom, from which versions to which."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dagbump import client
from dagbump.airflow_plugin.page import airflow_tables
from dagbump.airflow_plugin.page.access import Viewer
from dagbump.airflow_plugin.page.database import transaction
from dagbump.results import HistoryEntry

PER_PAGE = 50


@dataclass(frozen=True)
class HistoryTab:
    """All that the tab shows.

    Attributes:
        dag: what was looked for.
        entries: the newest first.
        until: they are older than this; None: the newest.
        older: there are more, older than this; None: there are none.
    """

    dag: str
    entries: list[HistoryEntry]
    until: datetime | None
    older: datetime | None


def history_tab(viewer: Viewer, dag: str, until: datetime | None) -> HistoryTab:
    """Ask dagbump, and the auth manager about the DAGs that it names; ask again without those that it refuses."""
    named = {dag_id for dag_id in airflow_tables.dag_ids() if dag.casefold() in dag_id.casefold()}
    readable: set[str] = set()
    while True:
        with transaction() as connection:
            entries = client.history(connection, dag_ids=named, until=until, limit=PER_PAGE + 1)
        unknown = {entry.dag_id for entry in entries} - readable
        readable |= viewer.readable(unknown)
        refused = unknown - readable
        if not refused:
            break
        named -= refused
    newest_first = list(reversed(entries))
    shown = newest_first[:PER_PAGE]
    return HistoryTab(dag, shown, until, shown[-1].bumped_at if len(newest_first) > PER_PAGE else None)
