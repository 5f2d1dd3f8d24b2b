"""Keeps ``task_instance.dag_version_id`` right inside Airflow's PostgreSQL database.

One Python function for each SQL function in schema ``dagbump``; ``dagbump upgrade`` installs those.
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
    """Import on first use: the command line answers a signal before SQLAlchemy is there."""
    if name in __all__:
        for module in ("errors", "results", "client"):
            value = getattr(import_module(f"dagbump.{module}"), name, None)
            if value is not None:
                globals()[name] = value
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
