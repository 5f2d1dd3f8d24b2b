"""The PostgreSQL of a benchmark, and the questions that are asked of it from outside the loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from dagbump import database
from dagbump.installation import installer
from sqlalchemy.engine import URL
from support import server
from support.server import Server, libpq
from typing_extensions import LiteralString

T = TypeVar("T")

# Nothing may happen in the background while a loop is timed, and the data is worth nothing after a crash. Without
# fsync a commit costs next to nothing, for every contender: what is left is the work that they differ in.
SETTINGS = {
    "autovacuum": "off",  # the benchmark vacuums between rounds
    "checkpoint_timeout": "1d",
    "fsync": "off",
    "max_connections": "50",
    "max_parallel_maintenance_workers": "0",
    "max_wal_size": "32GB",
    "pg_stat_statements.track_utility": "off",  # BEGIN and COMMIT are not counted as statements
    "shared_buffers": "1GB",
    "shared_preload_libraries": "pg_stat_statements",
}

# The fleet has one DAG.
_STALE: LiteralString = """
    FROM task_instance
    WHERE coalesce(state, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
    AND dag_version_id IS DISTINCT FROM (SELECT id FROM dag_version ORDER BY version_number DESC LIMIT 1)
"""


@contextmanager
def start_server() -> Iterator[Server]:
    """Start the PostgreSQL of this benchmark in a container, or take the one that DAGBUMP_TEST_URL names."""
    with server.start(SETTINGS) as postgres, postgres.maintenance() as connection:
        if "pg_stat_statements" not in scalar(connection, "SHOW shared_preload_libraries"):
            raise SystemExit(
                f"benchmark: {postgres.source} does not count statements: start a container engine, or name in "
                "DAGBUMP_TEST_URL a server with pg_stat_statements in shared_preload_libraries"
            )
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        yield postgres


def recreate(postgres: Server, name: str, template: str) -> URL:
    """Make a database anew, a copy of the template."""
    postgres.drop_database(name)
    return postgres.create_database(name, template)


def connect(url: URL) -> psycopg.Connection[Any]:
    """Open the kind of connection that dagbump and the baselines are measured on: a call is a transaction."""
    return psycopg.connect(libpq(url), autocommit=True)


def install(url: URL, *, with_index: bool) -> None:
    """Install dagbump as its users do, without the optional index or with it."""
    engine = database.create_engine(libpq(url))
    installer.upgrade(engine)
    if with_index:
        installer.upgrade(engine, installer.NEWEST_INDEX)
    engine.dispose()


def vacuum(connection: psycopg.Connection[Any]) -> None:
    """Make the room of dead rows free again, so that every round finds the tables as the one before did."""
    connection.execute("VACUUM (INDEX_CLEANUP ON) task_instance, dag_run")


def count_stale(connection: psycopg.Connection[Any]) -> int:
    """Count the unfinished TIs that are not on the latest version."""
    return int(scalar(connection, f"SELECT count(*) {_STALE}"))


def stale_ids(connection: psycopg.Connection[Any]) -> str:
    """Return their ids, as text in PostgreSQL's own form, which would take psycopg long to build."""
    return str(scalar(connection, f"SELECT coalesce(array_agg(id), '{{}}')::text {_STALE}"))


def move(connection: psycopg.Connection[Any], ids: str, version: UUID) -> None:
    """Move these TIs to a version, on the same kind of cursor as dagbump's client takes."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE task_instance SET dag_version_id = %s, updated_at = clock_timestamp() WHERE id = ANY (%s::uuid[])",
            (version, ids),
            prepare=False,
        )


def scalar(connection: psycopg.Connection[Any], query: LiteralString) -> Any:
    """Return the one value of a query."""
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


@dataclass(frozen=True)
class Touched:
    """What a loop did to the server."""

    statements: int  # what the client sent, without BEGIN and COMMIT; the server's own count
    rows: int  # what these statements answered or changed
    buffers: int  # pages of 8 kB that they looked at, in shared buffers or not
    wal_bytes: int  # what was written to the write-ahead log, the commit included


def observe(observer: psycopg.Connection[Any], name: str, work: Callable[[], T]) -> tuple[T, Touched]:
    """Do some work in that database, and say what it did to the server; the observer is connected to another one."""
    observer.execute("SELECT pg_stat_statements_reset()")
    start = scalar(observer, "SELECT pg_current_wal_insert_lsn()")
    answer = work()
    end = scalar(observer, "SELECT pg_current_wal_insert_lsn()")
    # SELECT $1 is SQLAlchemy's question whether a pooled connection still lives.
    row = observer.execute(
        """
        SELECT coalesce(sum(calls), 0)::bigint,
               coalesce(sum(rows), 0)::bigint,
               coalesce(sum(shared_blks_hit + shared_blks_read), 0)::bigint,
               (%s::pg_lsn - %s::pg_lsn)::bigint
        FROM pg_stat_statements AS statement
        JOIN pg_database AS database ON database.oid = statement.dbid
        WHERE database.datname = %s AND statement.toplevel AND statement.query <> 'SELECT $1'
        """,
        (end, start, name),
    ).fetchone()
    assert row is not None
    return answer, Touched(*row)
