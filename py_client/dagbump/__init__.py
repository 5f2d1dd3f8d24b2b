"""Keeps ``task_instance.dag_version_id`` correct inside Airflow's PostgreSQL database.

The package has one Python function for each SQL function in schema ``dagbump``. ``dagbump upgrade`` installs the SQL
functions.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagbump.client import abump, bump, check, history, holders, preview, versions
    from dagbump.errors import (
        DagbumpError,
        InsufficientPrivilege,
        NotInstalled,
        Unreachable,
        UnsupportedAirflow,
        VersionMismatch,
    )
    from dagbump.results import BumpResult, CheckItem, DagVersions, HistoryEntry, Holder, RunBump, RunPreview

__version__ = "0.1.0"

__all__ = [
    "BumpResult",
    "CheckItem",
    "DagVersions",
    "DagbumpError",
    "HistoryEntry",
    "Holder",
    "InsufficientPrivilege",
    "NotInstalled",
    "RunBump",
    "RunPreview",
    "Unreachable",
    "UnsupportedAirflow",
    "VersionMismatch",
    "abump",
    "bump",
    "check",
    "history",
    "holders",
    "preview",
    "versions",
]


def __getattr__(name: str) -> Any:
    """Import a name on first use, so that the command line can answer a signal before SQLAlchemy is imported."""
    if name in __all__:
        for module in ("errors", "results", "client"):
            value = getattr(import_module(f"dagbump.{module}"), name, None)
            if value is not None:
                globals()[name] = value
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
