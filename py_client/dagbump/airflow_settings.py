"""The options of section ``[dagbump]``, in the form in which Airflow's providers declare theirs.

Airflow finds this through the entry point ``apache_airflow_provider``, so that ``airflow config list`` knows them.
"""

from __future__ import annotations

from typing import Any


def _option(kind: str, default: str, description: str) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": kind,
        "example": None,
        "default": default,
    }


OPTIONS = {
    "enabled": _option("boolean", "False", "Whether the scheduler calls dagbump."),
    "missing_tasks_interval": _option(
        "float",
        "60.0",
        "Each examined run is searched for missing tasks once in this many seconds. 0: never.",
    ),
    "warn_held_after": _option(
        "float",
        "60.0",
        "Warn if another transaction has locked task instances of a run for longer than this many seconds. 0: never.",
    ),
}


def get_provider_info() -> dict[str, Any]:
    """Return what Airflow asks of a provider."""
    return {
        "package-name": "dagbump",
        "name": "dagbump",
        # Airflow drops underscores from this text.
        "description": "Keeps task instances on the latest version of their DAG, inside Airflow's PostgreSQL database.",
        "config": {"dagbump": {"description": "The scheduler's plugin of dagbump.", "options": OPTIONS}},
    }
