"""The jobs of pg_cron that the documents show do their work, inside a server whose image has pg_cron."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from dagbump import database as dagbump_database
from dagbump.installation import installer
from sqlalchemy.engine import URL
from support import airflow_tables
from support.fleet import Fleet
from support.processes import CHECKOUT
from support.server import CONTAINER_SETTINGS, Server, container, libpq
from support.waits import until

pytestmark = [pytest.mark.once, pytest.mark.slow]

SETTINGS = CONTAINER_SETTINGS | {
    "shared_preload_libraries": "pg_stat_statements,pg_cron",
    "cron.database_name": "airflow",
    "cron.use_background_workers": "on",  # no connection over the network, so no password
}


@pytest.fixture(scope="module")
def server(postgres: Server) -> Iterator[Server]:
    """A server of its own, because pg_cron is loaded when a server starts."""
    query = "SELECT FROM pg_available_extension_versions WHERE name = 'pg_cron' AND version = '1.6'"
    with postgres.maintenance() as connection:
        if connection.execute(query).rowcount == 0:
            pytest.skip("no pg_cron 1.6 here: earlier ones know no seconds, and PostgreSQL's own images have none")
    with container(postgres.image, SETTINGS) as started:
        yield started


@pytest.fixture
def airflow(server: Server, tmp_path: Path) -> Iterator[URL]:
    """The database airflow, with dagbump, pg_cron and an operator."""
    url = server.create_database("airflow")
    airflow_tables.make(url, tmp_path)
    installer.upgrade(dagbump_database.create_engine(libpq(url)))
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION pg_cron")
        connection.execute("CREATE ROLE airflow_operator LOGIN")
        connection.execute("SELECT dagbump.grant_operator('airflow_operator')")
    yield url
    with server.maintenance() as connection:
        connection.execute("DROP DATABASE airflow WITH (FORCE)")
        connection.execute("DROP ROLE airflow_operator")


def job(document: str, function: str) -> str:
    """Return the statement of a document that schedules this function, with a schedule that begins at once."""
    text = (CHECKOUT / document).read_text(encoding="utf-8").replace("''", "'")
    shown = re.findall(r"SELECT cron\.schedule\w*\(.*?\);", text)
    (statement,) = {statement for statement in shown if f"dagbump.{function}(" in statement}
    return re.sub(r"'[\d*]+( [\d*]+){4}'", "'1 second'", statement)


@pytest.mark.parametrize(
    ("document", "function", "role"),
    [("docs/repair.md", "repair", "test"), ("docs/managed-services.md", "bump", "airflow_operator")],
)
def test_a_job_moves_what_is_stale(airflow: URL, document: str, function: str, role: str) -> None:
    with psycopg.connect(libpq(airflow), autocommit=True) as connection:
        fleet = Fleet(connection)
        old, new = fleet.dag("d", versions=2)
        run = fleet.run("d")
        fleet.ti(run, new, "success")
        ti = fleet.ti(run, old, "queued")

        connection.execute(job(document, function).encode())

        def version() -> object:
            return connection.execute("SELECT dag_version_id FROM task_instance WHERE id = %s", (ti,)).fetchone()

        until(lambda: version() == (new,), said_by_cron(connection))
        assert connection.execute("SELECT bumped_by FROM dagbump.history").fetchall() == [(role,)]


def test_a_job_removes_old_history(airflow: URL) -> None:
    with psycopg.connect(libpq(airflow), autocommit=True) as connection:
        fleet = Fleet(connection)
        old, new = fleet.dag("d", versions=2)
        run = fleet.run("d")
        fleet.ti(run, new, "success")
        fleet.ti(run, old, "queued")
        connection.execute("SELECT dagbump.bump()")
        connection.execute("UPDATE dagbump.history SET bumped_at = bumped_at - interval '91 days'")

        connection.execute(job("sql/prune_history.sql", "prune_history").encode())

        def rows() -> object:
            return connection.execute("SELECT count(*) FROM dagbump.history").fetchone()

        until(lambda: rows() == (0,), said_by_cron(connection))


def said_by_cron(connection: psycopg.Connection[tuple[object, ...]]) -> Callable[[], str]:
    query = "SELECT status, return_message FROM cron.job_run_details ORDER BY runid DESC LIMIT 1"
    return lambda: f"the job has worked; pg_cron says {connection.execute(query).fetchone()}"
