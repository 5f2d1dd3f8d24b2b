"""Keeps ``task_instance.dag_version_id`` right inside Airflow's PostgreSQL database.

One Python function for each SQL function in schema ``dagbump``; ``dagbump upgrade`` installs those.
"""

from dagbump.client import abump, bump, preview
from dagbump.errors import (
    DagbumpError,
    InsufficientPrivilege,
    NotInstalled,
    Unreachable,
    UnsupportedAirflow,
    VersionMismatch,
)
from dagbump.results import BumpResult, RunBump, RunPreview

__version__ = "0.1.0"

__all__ = [
    "BumpResult",
    "DagbumpError",
    "InsufficientPrivilege",
    "NotInstalled",
    "RunBump",
    "RunPreview",
    "Unreachable",
    "UnsupportedAirflow",
    "VersionMismatch",
    "abump",
    "bump",
    "preview",
]
