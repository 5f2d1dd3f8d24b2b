"""The plugin class, which Airflow imports in each of its processes; so this module imports as little as possible."""

from __future__ import annotations

import sys
from typing import ClassVar

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

from dagbump.airflow_plugin import configuration, reporting
from dagbump.airflow_plugin.compatibility import SCHEDULER_MODULE
from dagbump.airflow_plugin.page import URL_PREFIX, Page, SlashAdded, page_in_menu


class Listener:
    """The listener that Airflow calls when one of its processes starts."""

    @hookimpl
    def on_starting(self, component: object) -> None:
        """Turn dagbump on if it is enabled and this process is a scheduler; log a warning if something does not fit."""
        try:
            scheduler = sys.modules.get(SCHEDULER_MODULE)  # neither the triggerer nor the DAG processor imports it
            if scheduler is not None and _is_wanted(component):
                from dagbump.airflow_plugin import patches  # here, because only a scheduler needs its imports

                patches.turn_on(scheduler)
        except (KeyboardInterrupt, SystemExit):
            raise
        # Catch BaseException too, because nothing here may keep the scheduler or other listeners from starting.
        except BaseException as why:  # noqa: BLE001
            reporting.stays_off(why)


def _is_wanted(component: object) -> bool:
    from airflow.jobs.job import Job

    # A task that LocalExecutor forked from the scheduler is no Job.
    return isinstance(component, Job) and configuration.is_enabled()


class DagbumpPlugin(AirflowPlugin):
    """The plugin, as `airflow plugins` lists it."""

    name = "dagbump"
    listeners: ClassVar[list[object]] = [Listener()]
    fastapi_apps: ClassVar[list[dict[str, object]]] = [{"app": Page(), "url_prefix": URL_PREFIX, "name": "dagbump"}]
    fastapi_root_middlewares: ClassVar[list[dict[str, object]]] = [{"middleware": SlashAdded, "name": "dagbump"}]
    external_views: ClassVar[list[dict[str, str]]] = [page_in_menu()]  # from 3.1 on
