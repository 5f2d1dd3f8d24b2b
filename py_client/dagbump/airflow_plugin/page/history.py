"""The tab of the history: what was moved, by whom, from which versions to which."""

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
    """The contents of the tab.

    Attributes:
        search: a part of the id of a DAG or a run, whether in upper or lower case.
        entries: the entries, the newest first.
        until: all entries are older than this; None if they are the newest.
        older: the ``until`` of the next page; None if there are no older entries.
    """

    search: str
    entries: list[HistoryEntry]
    until: datetime | None
    older: datetime | None


def history_tab(viewer: Viewer, search: str, until: datetime | None) -> HistoryTab:
    """Read the history, ask the auth manager about its DAGs, and read again without the DAGs that it refuses."""
    named = set(airflow_tables.dag_ids())
    readable: set[str] = set()
    while True:
        with transaction() as connection:
            entries = client.history(connection, dag_ids=named, until=until, limit=PER_PAGE + 1, search=search or None)
        unknown = {entry.dag_id for entry in entries} - readable
        readable |= viewer.readable(unknown)
        refused = unknown - readable
        if not refused:
            break
        named -= refused
    newest_first = list(reversed(entries))
    shown = newest_first[:PER_PAGE]
    return HistoryTab(search, shown, until, shown[-1].bumped_at if len(newest_first) > PER_PAGE else None)
