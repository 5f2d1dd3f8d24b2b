"""Fixtures: a PostgreSQL for each worker, Airflow's tables made there once, a clone of that database for each test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from dagbump import database as dagbump_database
from dagbump.installation import installer
from sqlalchemy.engine import URL
from support import airflow_tables, server, traps
from support.fleet import Fleet
from support.optional_index import build_optional_index
from support.releases import environments
from support.server import Connect, Server

_stack = ExitStack()

SERVERS = pytest.StashKey[list[Server]]()
MOST_WORKERS = 4


def pytest_xdist_auto_num_workers() -> int:
    """Return the number of workers for -n auto. Each worker needs a core, and half a core for its server."""
    return 1 if os.environ.get("DAGBUMP_TEST_URL") else min(os.cpu_count() or 1, MOST_WORKERS)


def pytest_configure(config: pytest.Config) -> None:
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]  # libpq and an embedded server would heed it
    # A shell's background job ignores Ctrl-C, and so would the processes that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    given: dict[str, Any] | None = getattr(config, "workerinput", None)
    if given is None:
        servers = _stack.enter_context(server.start_several(config.getoption("numprocesses", None) or 1))
    else:
        servers = [Server.from_words(given["postgres"])]
    config.stash[SERVERS] = servers
    server.pg_dump = servers[0].pg_dump


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give each worker of pytest-xdist a server of its own."""
    number = int(node.gateway.id.removeprefix("gw"))
    servers = node.config.stash[SERVERS]
    node.workerinput["postgres"] = servers[number % len(servers)].as_words()


def pytest_unconfigure() -> None:
    _stack.close()


def pytest_report_header(config: pytest.Config) -> str:
    postgres = config.stash[SERVERS][0]
    with postgres.maintenance() as connection:
        (version,) = connection.execute("SHOW server_version").fetchone() or ("?",)
    return f"PostgreSQL {version} from {postgres.source}; schema of Airflow {environments.release()}"


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Server:
    return request.config.stash[SERVERS][0]


@pytest.fixture(scope="session")
def airflow_template(postgres: Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with what `airflow db migrate` creates, and no dagbump."""
    name = f"airflow_{environments.release().replace('.', '_')}"
    airflow_tables.make(postgres.create_database(name), tmp_path_factory.mktemp("airflow"))
    return name


@pytest.fixture(scope="session")
def dagbump_template(postgres: Server, airflow_template: str) -> str:
    """The same, upgraded to dagbump's newest revision."""
    name = f"{airflow_template}_dagbump"
    url = postgres.create_database(name, airflow_template)
    installer.upgrade(dagbump_database.create_engine(server.libpq(url)))
    return name


@pytest.fixture(scope="session")
def trapped_template(postgres: Server, airflow_template: str) -> Iterator[str]:
    """A database full of traps, in which Airflow's tables belong to an ordinary role. It has runs for every
    function.
    """
    name = f"{airflow_template}_trapped"
    postgres.drop_database(name)
    with traps.roles(postgres, traps.OWNER, traps.OPERATOR):
        traps.build(postgres.create_database(name, airflow_template))
        yield name
        postgres.drop_database(name)


@pytest.fixture
def airflow_database(postgres: Server, airflow_template: str) -> Iterator[URL]:
    """A fresh database of Airflow's, without dagbump."""
    with postgres.temporary_database(airflow_template) as url:
        yield url


@pytest.fixture
def database(postgres: Server, dagbump_template: str) -> Iterator[URL]:
    """A fresh database of Airflow's, with dagbump."""
    with postgres.temporary_database(dagbump_template) as url:
        yield url


@pytest.fixture(params=["without the index", "with the index"])
def either_way(request: pytest.FixtureRequest, database: URL) -> None:
    """Runs the test twice: as `dagbump upgrade` installs, and with the optional index."""
    if request.param == "with the index":
        with psycopg.connect(server.libpq(database), autocommit=True) as connection:
            build_optional_index(connection)


@pytest.fixture
def connect(database: URL) -> Iterator[Connect]:
    """Opens psycopg connections to the test's database, closed at the end; autocommit=True as an argument."""
    with ExitStack() as stack:

        def open_connection(**arguments: Any) -> psycopg.Connection[Any]:
            connection = psycopg.connect(server.libpq(database), **arguments)
            stack.callback(connection.close)  # not its context manager, which would commit
            return connection

        yield open_connection


@pytest.fixture
def connection(connect: Connect) -> psycopg.Connection[Any]:
    """The test's main connection; in a transaction from its first statement on."""
    return connect()


@pytest.fixture
def fleet(connect: Connect) -> Fleet:
    """Makes DAGs, versions, runs and task instances, each committed at once."""
    return Fleet(connect(autocommit=True))


@pytest.fixture
def role(fleet: Fleet) -> Iterator[str]:
    """A role that has been granted nothing."""
    fleet.execute("DROP ROLE IF EXISTS dagbump_test_role")
    fleet.execute("CREATE ROLE dagbump_test_role")
    yield "dagbump_test_role"
    fleet.execute("DROP OWNED BY dagbump_test_role")
    fleet.execute("DROP ROLE dagbump_test_role")
