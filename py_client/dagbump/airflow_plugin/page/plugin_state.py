"""Finds out whether the scheduler's part of the plugin is on, as far as this process can tell."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from dagbump import client
from dagbump.airflow_plugin import callers, configuration
from dagbump.airflow_plugin.compatibility import UnfitError
from dagbump.results import HistoryEntry

_NEWEST = 100


@dataclass(frozen=True)
class PluginState:
    """The state of the scheduler's part of the plugin.

    Attributes:
        is_on: the setting in the API server's configuration, which may differ from the scheduler's; None if it is
            neither True nor False.
        last: the newest entry in dagbump.history that a scheduler has caused, for the given DAGs; None if there is none
            among the newest entries.
        now: the time of the database's clock.
    """

    is_on: bool | None
    last: HistoryEntry | None
    now: datetime


def plugin_state(connection: sa.engine.Connection, dag_ids: Collection[str]) -> PluginState:
    """Return whether the scheduler's part is on, and what it last did to these DAGs."""
    entries = client.history(connection, dag_ids=dag_ids, limit=_NEWEST)
    last = next((entry for entry in reversed(entries) if entry.caller == callers.SCHEDULER), None)
    return PluginState(is_enabled(), last, client.server_time(connection))


def is_enabled() -> bool | None:
    """Return the setting in this process's configuration; None if it is neither True nor False."""
    try:
        return configuration.is_enabled()
    except UnfitError:
        return None
