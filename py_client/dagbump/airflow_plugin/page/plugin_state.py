"""Whether the scheduler's part of the plugin is at work, as far as this process can tell."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from dagbump import client
from dagbump.airflow_plugin import callers
from dagbump.results import HistoryEntry

_NEWEST = 100


@dataclass(frozen=True)
class PluginState:
    """The scheduler's part of the plugin.

    Attributes:
        is_on: as the API server is configured, which a scheduler's own environment may contradict; None: it is not
            True or False.
        last: the newest thing in dagbump.history that a scheduler has moved, of the DAGs asked about; None:
            there is none among the newest entries.
        now: by the database's clock.
    """

    is_on: bool | None
    last: HistoryEntry | None
    now: datetime


def plugin_state(connection: sa.engine.Connection, dag_ids: Collection[str]) -> PluginState:
    """Look whether it is on, and what it did last to these DAGs."""
    entries = client.history(connection, dag_ids=dag_ids, limit=_NEWEST)
    last = next((entry for entry in reversed(entries) if entry.caller == callers.SCHEDULER), None)
    return PluginState(_is_enabled(), last, client.server_time(connection))


def _is_enabled() -> bool | None:
    from airflow.configuration import conf
    from airflow.exceptions import AirflowConfigException

    try:
        return bool(conf.getboolean("dagbump", "enabled", fallback=False))
    except AirflowConfigException:
        return None
