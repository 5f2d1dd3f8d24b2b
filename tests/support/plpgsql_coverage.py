"""A plugin of pytest that counts which statements of the functions the tests run. `make coverage` loads it with -p.

It also lets the Python of an Airflow release count what runs of the package there.

plpgsql_check profiles each function in the server's memory. What it has counted in a database is read before the
database is dropped. A function whose body is not as installed counts for nothing: a test has replaced it.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import coverage
import psycopg

from support import server
from support.processes import CHECKOUT
from support.releases import worker
from support.server import Server, libpq

DIRECTORY = CHECKOUT / ".cache/coverage"
server.CONTAINER_SETTINGS |= {
    "shared_preload_libraries": "pg_stat_statements,plpgsql_check",
    "plpgsql_check.profiler": "on",
    "plpgsql_check.profiler_max_shared_chunks": "500000",
}
_PROFILE = """
    SELECT function.proname, function.prosrc, statement.lineno, statement.stmtname,
        coalesce(statement.exec_stmts, 0)
    FROM pg_catalog.pg_proc AS function
    JOIN pg_catalog.pg_language AS language ON language.oid = function.prolang AND language.lanname = 'plpgsql'
    CROSS JOIN LATERAL profiler.plpgsql_profiler_function_statements_tb(function.oid) AS statement
    WHERE function.pronamespace = pg_catalog.to_regnamespace('dagbump')
"""

Statement = tuple[str, str, int, str]  # function, its body, line of the body, kind
_counted: dict[Statement, int] = defaultdict(int)
_drop_database = Server.drop_database


def _profile_and_drop(self: Server, name: str) -> None:
    with suppress(psycopg.Error), psycopg.connect(libpq(self.database(name)), autocommit=True) as connection:
        connection.execute("SET search_path = pg_catalog, pg_temp")
        connection.execute("SET statement_timeout = '20s'")
        connection.execute("CREATE SCHEMA profiler; CREATE EXTENSION plpgsql_check SCHEMA profiler")
        for function, body, line, kind, times in connection.execute(_PROFILE):
            _counted[function, body, line, kind] += times
    _drop_database(self, name)


def pytest_configure() -> None:
    inside_airflow = DIRECTORY / "inside_airflow"
    with suppress(FileExistsError):  # another worker was first
        inside_airflow.mkdir(parents=True)
        (inside_airflow / "coverage").symlink_to(Path(coverage.__file__).parent)
        (inside_airflow / "sitecustomize.py").write_text("import coverage\n\ncoverage.process_startup()\n", "utf-8")
    worker.PATH.append(inside_airflow)
    Server.drop_database = _profile_and_drop  # type: ignore[method-assign]  # only while coverage is counted


def pytest_sessionfinish() -> None:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    rows = [[*statement, times] for statement, times in _counted.items()]
    (DIRECTORY / f"plpgsql-{os.getpid()}.json").write_text(json.dumps(rows), "utf-8")
