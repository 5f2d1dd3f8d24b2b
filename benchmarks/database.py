"""The PostgreSQL of a benchmark, and the questions that are asked of it from outside the loops."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from dagbump import database
from dagbump.installation import installer
from psycopg import sql
from sqlalchemy.engine import URL, make_url
from support.server import DEFAULT_IMAGE, Server, engine_answers, libpq

# Nothing may happen in the background while a loop is timed, and the data is worth nothing after a crash. Without
# fsync a commit costs next to nothing, for every side: what is left is the work that the sides differ in.
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


class UnfitServerError(Exception):
    """There is no PostgreSQL to measure on; says what to do."""


@contextmanager
def start_server() -> Iterator[Server]:
    """Start the PostgreSQL of this benchmark in a container, or take the one that DAGBUMP_TEST_URL names."""
    given = os.environ.get("DAGBUMP_TEST_URL")
    if given:
        yield _checked(Server(make_url(given).set(drivername="postgresql"), "DAGBUMP_TEST_URL"))
        return
    if not engine_answers():
        raise UnfitServerError("no container engine answers: start one, or name a server in DAGBUMP_TEST_URL")
    # Imported here because it warns, where there is no container engine.
    from testcontainers.community.postgres import PostgresContainer

    image = os.environ.get("DAGBUMP_POSTGRES_IMAGE") or DEFAULT_IMAGE
    options = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
    with PostgresContainer(image, driver=None).with_command(["postgres", *options]) as postgres:
        yield _checked(Server(make_url(postgres.get_connection_url()), f"container {image}"))


def _checked(server: Server) -> Server:
    with server.maintenance() as connection:
        row = connection.execute("SHOW shared_preload_libraries").fetchone()
        if row is None or "pg_stat_statements" not in row[0]:
            raise UnfitServerError(f"{server.source}: pg_stat_statements must be in shared_preload_libraries")
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    return server


def recreate(server: Server, name: str, template: str) -> URL:
    """Make a database anew, a copy of the template."""
    server.drop_database(name)
    return server.create_database(name, template)


def connect(url: URL) -> psycopg.Connection[Any]:
    """Open the kind of connection that dagbump and the floors are measured on: a call is a transaction."""
    return psycopg.connect(libpq(url), autocommit=True)


def install(url: URL, *, with_index: bool) -> None:
    """Install dagbump as its users do, without the optional index or with it."""
    engine = database.create_engine(libpq(url))
    try:
        installer.upgrade(engine)
        if with_index:
            installer.upgrade(engine, installer.NEWEST_INDEX)
    finally:
        engine.dispose()


def vacuum(connection: psycopg.Connection[Any]) -> None:
    """Make the room of dead rows free again, so that every round finds the tables as the one before did."""
    for table in ("task_instance", "dag_run"):
        connection.execute(sql.SQL("VACUUM (INDEX_CLEANUP ON) {}").format(sql.Identifier(table)))


def stale_tis(connection: psycopg.Connection[Any]) -> int:
    """Count the unfinished TIs that are not on the latest version of their DAG."""
    count: int = scalar(
        connection,
        """
        SELECT count(*) FROM task_instance AS ti
        WHERE coalesce(ti.state, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
        AND ti.dag_version_id IS DISTINCT FROM (
            SELECT id FROM dag_version AS version
            WHERE version.dag_id = ti.dag_id ORDER BY version_number DESC LIMIT 1
        )
        """,
    )
    return count


def move_tis(connection: psycopg.Connection[Any], version: UUID) -> None:
    """Move all unfinished TIs to a version."""
    connection.execute(
        """
        UPDATE task_instance SET dag_version_id = %s, updated_at = clock_timestamp()
        WHERE coalesce(state, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
        """,
        (version,),
    )


def scalar(connection: psycopg.Connection[Any], query: LiteralString) -> Any:
    """Return the one value of a query."""
    row = connection.execute(query).fetchone()
    if row is None:
        raise LookupError(query)
    return row[0]


@dataclass(frozen=True)
class Touched:
    """What a loop did to the server.

    Attributes:
        statements: what the client sent, without BEGIN and COMMIT; the server's own count.
        rows: what these statements answered or changed.
        buffers: pages of 8 kB that they looked at, in shared buffers or not.
        wal_bytes: what was written to the write-ahead log, the commit included.
    """

    statements: int
    rows: int
    buffers: int
    wal_bytes: int


class Observer:
    """Asks the server what a loop did to it; on a connection of its own, to a database of its own."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        """Take a connection to the database that has pg_stat_statements."""
        self._connection = connection
        self._start: Any = None

    def begin(self) -> None:
        """Forget what was before."""
        self._connection.execute("SELECT pg_stat_statements_reset()")
        self._start = scalar(self._connection, "SELECT pg_current_wal_insert_lsn()")

    def end(self, name: str) -> Touched:
        """Return what has been done in that database since `begin`."""
        end = scalar(self._connection, "SELECT pg_current_wal_insert_lsn()")
        # SELECT $1 is SQLAlchemy's question whether a pooled connection still lives.
        row = self._connection.execute(
            """
            SELECT coalesce(sum(calls), 0)::bigint,
                   coalesce(sum(rows), 0)::bigint,
                   coalesce(sum(shared_blks_hit + shared_blks_read), 0)::bigint,
                   (%s::pg_lsn - %s::pg_lsn)::bigint
            FROM pg_stat_statements AS statement
            JOIN pg_database AS database ON database.oid = statement.dbid
            WHERE database.datname = %s AND statement.toplevel AND statement.query <> 'SELECT $1'
            """,
            (end, self._start, name),
        ).fetchone()
        if row is None:
            raise LookupError(name)
        return Touched(*row)
