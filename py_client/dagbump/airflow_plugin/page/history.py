"""The tab of the history: what has been moved, by whom, from which versions to which."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from dagbump import client
from dagbump.airflow_plugin.page.access import Viewer
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


def history_tab(connection: sa.engine.Connection, viewer: Viewer, dag: str, until: datetime | None) -> HistoryTab:
    """Ask dagbump."""
    dag_ids = [dag_id for dag_id in viewer.readable if dag.casefold() in dag_id.casefold()]
    entries = client.history(connection, dag_ids=dag_ids, until=until, limit=PER_PAGE + 1)
    newest_first = list(reversed(entries))
    shown = newest_first[:PER_PAGE]
    return HistoryTab(dag, shown, until, shown[-1].bumped_at if len(newest_first) > PER_PAGE else None)
