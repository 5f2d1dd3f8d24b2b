"""Says what a benchmark ran on, without giving away whose machine it is."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dagbump
import psutil
import psycopg
from dagbump.installation import state
from support.processes import CHECKOUT
from support.server import Server

from benchmarks.bench import QUIET
from benchmarks.fleet import scalar

_OTHER_SETTINGS = ("effective_cache_size", "full_page_writes", "jit", "random_page_cost", "wal_level", "work_mem")


def describe(server: Server, airflow: Mapping[str, dict[str, str]]) -> dict[str, Any]:
    """Return the commit, the machine, the versions and PostgreSQL's settings."""
    with server.maintenance() as connection:
        settings = dict(
            connection.execute(
                "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY (%s) ORDER BY name",
                ([*QUIET, *_OTHER_SETTINGS],),
            ).fetchall()
        )
        version = scalar(connection, "SHOW server_version")
    return {
        "commit": _commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "postgresql": version,
        "postgresql_source": server.source,
        "settings": settings,
        "airflow": dict(airflow),
        "dagbump": dagbump.__version__,
        "dagbump_revision": state.NEWEST_REVISION,
        "python": platform.python_version(),
        "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__})",
    }


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=, with changes"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def _processor() -> str:
    """Return the processor's model, where Linux says it."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)", file.read_text("utf-8"), re.MULTILINE) if file.exists() else None
    return found[1] if found else platform.machine()
