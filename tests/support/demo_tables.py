"""What the demo's tables have to be: those of a real Airflow. As a program, writes them into the package."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from dagbump.demo.fleet import TABLES

from support import server
from support.releases import environments

RELEASE = "3.3.2"
# Those that the demo or dagbump looks at, and what their foreign keys refer to.
_NAMES = (
    *("backfill", "backfill_dag_run", "dag", "dag_bundle", "dag_run", "dag_version", "log_template", "serialized_dag"),
    *("task_instance", "task_instance_history", "team", "trigger"),
)
_HEAD = f"""\
-- Tables of Airflow {RELEASE}, as its `airflow db migrate` makes them. `make demo-tables` writes this file.
"""


def tables_of_airflow() -> str:
    """Let Airflow make its tables on the demo's server, and return how to make those that the demo needs."""
    with server.embedded() as postgres, tempfile.TemporaryDirectory() as home:
        url = server.Server(postgres.url, "embedded").create_database("airflow")
        environments.migrate(RELEASE, url, Path(home))
        options = ("--schema-only", "--no-owner", "--no-privileges", "--no-comments")
        dump = server.run_client("pg_dump", url, *options, *(f"--table=public.{name}" for name in _NAMES))
    # What is left out names releases and a random token, or is about psql's session.
    left_out = ("--", "SET ", "SELECT ", "\\restrict", "\\unrestrict")
    statements = "\n".join(line for line in dump.splitlines() if not line.startswith(left_out))
    return _HEAD + re.sub(r"\n{2,}", "\n\n", statements).rstrip() + "\n"


if __name__ == "__main__":
    TABLES.write_text(tables_of_airflow(), "utf-8")
