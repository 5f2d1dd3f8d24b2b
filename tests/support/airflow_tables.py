"""Airflow's tables without an Airflow, from files. As a program it writes these files with `airflow db migrate`.

They are of the default release. The tests read `FILE`. The demo has a smaller file in its package. `make test-airflow`
compares both with what Airflow creates.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from dagbump.demo.fleet import TABLES
from dagbump.embedded_postgres import EmbeddedPostgres
from sqlalchemy.engine import URL

from support import server
from support.releases import environments

RELEASE = environments.DEFAULT_RELEASE
FILE = Path(__file__).with_name("airflow_tables.sql")
# The tables that the demo or dagbump reads, and those that their foreign keys refer to.
_OF_THE_DEMO = (
    *("backfill", "backfill_dag_run", "dag", "dag_bundle", "dag_run", "dag_version", "log_template", "serialized_dag"),
    *("task_instance", "task_instance_history", "team", "trigger"),
)
_HEAD = f"""\
-- Tables of Airflow {RELEASE}, as its `airflow db migrate` makes them. `make airflow-tables` writes this file.
"""
_OPTIONS = ("--no-owner", "--no-privileges", "--no-comments")


def make(url: URL, home: Path) -> None:
    """Make the tables of the run's release in an empty database: from the file, else by Airflow itself."""
    if environments.release() != RELEASE:
        environments.migrate(environments.release(), url, home)
        return
    with psycopg.connect(server.libpq(url)) as connection:
        connection.execute(FILE.read_bytes())


def make_in_embedded(postgres: EmbeddedPostgres, name: str = "airflow") -> URL:
    """Make a database there with the tables that the demo has."""
    postgres.create_database(name)
    url = postgres.url.set(database=name)
    with psycopg.connect(server.libpq(url)) as connection:
        connection.execute(TABLES.read_bytes())
    return url


@contextmanager
def of_airflow() -> Iterator[URL]:
    """Let Airflow make its tables on an embedded server."""
    with server.embedded() as postgres, tempfile.TemporaryDirectory() as home:
        url = server.Server(postgres.url, "embedded").create_database("airflow")
        environments.migrate(RELEASE, url, Path(home))
        yield url


def all_of(url: URL) -> str:
    """Return how to make a database's tables, with the rows that Airflow puts there."""
    dump = server.run_client("pg_dump", url, "--inserts", *_OPTIONS)
    return _tidy(re.sub(r"'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[^']*'", "now()", dump))


def of_the_demo(url: URL) -> str:
    """Return how to make those tables of a database that the demo needs, without rows."""
    names = (f"--table=public.{name}" for name in _OF_THE_DEMO)
    return _tidy(server.run_client("pg_dump", url, "--schema-only", *_OPTIONS, *names))


def _tidy(dump: str) -> str:
    # Lines that name releases or a random token, or that are about psql's session, are left out.
    left_out = ("--", "SET ", "SELECT pg_catalog.set_config", "\\restrict", "\\unrestrict")
    statements = "\n".join(line for line in dump.splitlines() if not line.startswith(left_out))
    return _HEAD + re.sub(r"\n{2,}", "\n\n", statements).rstrip() + "\n"


if __name__ == "__main__":
    with of_airflow() as database:
        FILE.write_text(all_of(database), "utf-8")
        TABLES.write_text(of_the_demo(database), "utf-8")
