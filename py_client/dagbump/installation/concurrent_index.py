"""The optional index, built and dropped CONCURRENTLY: one at a time, and what was cut off is cleaned up.

What counts is the index in the catalog, never a record of it.

CONCURRENTLY works outside of any transaction only, where a search path, a role or a lock could be set for the session
alone, and would stay on a pooled connection. So these statements qualify every name and operator, and run as the role
that has connected; and whose turn it is is decided in the transaction before (`_state_when_alone`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import sqlalchemy as sa
from alembic import context

from dagbump.errors import DagbumpError, InsufficientPrivilege, sqlstate
from dagbump.installation import in_migration, sql_files, state
from dagbump.installation.names import INDEX
from dagbump.installation.state import OptionalIndex

_POLL_SECONDS = 0.2
# From the COMMIT that ends a turn, so long until the build that follows it has its lock, for others to see.
_HEAD_START_SECONDS = 0.3
_DEADLOCK_DETECTED, _QUERY_CANCELED = "40P01", "57014"
_TRIES_TO_CLEAN_UP = 3

# Whoever builds an index CONCURRENTLY on a task_instance of this database. The lock is for everybody to see; the table
# of the build is not.
BUILDERS = """
    SELECT build.pid
    FROM pg_catalog.pg_stat_progress_create_index AS build
    JOIN pg_catalog.pg_locks AS lock ON lock.pid OPERATOR(pg_catalog.=) build.pid
    JOIN pg_catalog.pg_class AS class ON class.oid OPERATOR(pg_catalog.=) lock.relation
    WHERE build.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
    AND lock.mode OPERATOR(pg_catalog.=) 'ShareUpdateExclusiveLock' AND lock.granted
    AND class.relname OPERATOR(pg_catalog.=) 'task_instance'
"""
_WHO_WORKS = sa.text(
    """
    SELECT
        CURRENT_USER::pg_catalog.text AS role,
        pg_catalog.pg_get_userbyid(class.relowner)::pg_catalog.text AS owner,
        pg_catalog.pg_has_role(class.relowner, 'USAGE') AS inherits,
        pg_catalog.has_schema_privilege(namespace.oid, 'CREATE') AS may_create
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid OPERATOR(pg_catalog.=) class.relnamespace
    WHERE namespace.nspname::pg_catalog.text OPERATOR(pg_catalog.=) CAST(:schema AS pg_catalog.text)
    AND class.relname OPERATOR(pg_catalog.=) 'task_instance'
    """
)


class BuiltMeanwhile(Exception):  # noqa: N818  (not an error: a reason to look again)
    """Another upgrade has built the index, and recorded it, while this one waited for its turn."""


class Stopped(Exception):  # noqa: N818
    """Whoever waits for its turn has been asked to stop."""


def build(create: Path, revision: str) -> None:
    """Build the index, outside of any transaction; return in a new one, in which it may be recorded.

    An invalid index, which a build that was cut off leaves behind, is dropped: an earlier one's first, and this one's
    at the end; so is one that was built for other tables.

    Args:
        create: the file with the CREATE INDEX CONCURRENTLY.
        revision: the revision that the migration under way records.

    Raises:
        BuiltMeanwhile: there is nothing left to do.
        DagbumpError: something else has that name, or this role may not build it.
    """
    airflow_schema: str = context.get_context().opts["airflow_schema"]
    if context.get_context().as_sql:  # a script cannot look; nor can two of them be kept apart
        with in_migration.outside_transaction():
            _drop(airflow_schema)
            in_migration.run(create)
        in_migration.begin()
        return
    connection = _connection()
    try:
        while (found := _state_in_turn(connection, airflow_schema, OptionalIndex.VALID)) is not OptionalIndex.VALID:
            _refuse_foreign(found, airflow_schema)
            with _working_outside(connection):
                _refuse_who_may_not(connection, airflow_schema, create=found is OptionalIndex.MISSING)
                if found is OptionalIndex.MISSING:
                    in_migration.run(create)
                else:
                    _drop(airflow_schema)
    except BaseException:
        _clean_up(connection, airflow_schema)
        raise
    in_migration.begin()
    recorded = sa.text("SELECT TRUE FROM dagbump.alembic_version WHERE version_num = :revision")
    if connection.scalar(recorded, {"revision": revision}):
        raise BuiltMeanwhile


def drop() -> None:
    """Drop the index, wherever it is, without blocking anybody; return in a new transaction."""
    if context.get_context().as_sql:
        with in_migration.outside_transaction():
            _drop(context.get_context().opts["airflow_schema"])
        in_migration.begin()
        return
    connection = _connection()
    for airflow_schema in _schemas_of_ours(connection):
        while _state_in_turn(connection, airflow_schema, OptionalIndex.MISSING) not in {
            OptionalIndex.MISSING,
            OptionalIndex.FOREIGN,
        }:
            with _working_outside(connection):
                _refuse_who_may_not(connection, airflow_schema, create=False)
                _drop(airflow_schema)
    in_migration.begin()


def is_left(connection: sa.engine.Connection) -> bool:
    """Say whether there is such an index anywhere."""
    return bool(_schemas_of_ours(connection))


def _schemas_of_ours(connection: sa.engine.Connection) -> list[str]:
    """Return where there is one that the owner may drop, wherever Airflow's tables are by now."""
    return [row.schema for row in state.named_as_optional_index(connection) if row.ours and row.mine]


def _state_in_turn(connection: sa.engine.Connection, airflow_schema: str, wanted: OptionalIndex) -> OptionalIndex:
    """Wait until nobody else builds an index on the table, and say what there is of ours; or say `wanted` at once.

    A build that waits for the lock of another one holds a snapshot, for whose end that other one waits at last: then
    PostgreSQL ends one of the two. So a build is sent only where none is to be seen. In the transaction that looks,
    nobody else can look; and it looks only after a while, since the build for which the turn before was taken is to be
    seen only when the server has begun it.
    """
    while True:
        in_migration.keep_others_out()
        found = state.optional_index(connection, airflow_schema)
        if found is wanted:
            return found
        _pause(_HEAD_START_SECONDS)
        if not _others_build(connection):
            return state.optional_index(connection, airflow_schema)
        with _working_outside(connection):  # nobody has to wait for a transaction that waits
            while _others_build(connection):
                _pause(_POLL_SECONDS)


def _others_build(connection: sa.engine.Connection) -> bool:
    return connection.execute(sa.text(BUILDERS)).first() is not None


def _pause(seconds: float) -> None:
    if _told("stopping").wait(seconds):
        raise Stopped


def _told(what: str) -> Event:
    """Return what the one who runs the migration, and the migration, tell each other by."""
    event: Event = context.config.attributes.setdefault(what, Event())
    return event


@contextmanager
def _working_outside(connection: sa.engine.Connection) -> Iterator[None]:
    """Work outside of any transaction; where two builds have met all the same, and one was ended, look again."""
    with in_migration.outside_transaction():
        # For whoever watches. Behind a pooler it may be another one by now; then there is less to see.
        context.config.attributes["backend_pid"] = connection.scalar(sa.text("SELECT pg_catalog.pg_backend_pid()"))
        try:
            yield
        except sa.exc.DBAPIError as error:
            if sqlstate(error) != _DEADLOCK_DETECTED:
                raise


def _clean_up(connection: sa.engine.Connection, airflow_schema: str) -> None:
    """Drop what is left of a build; where that fails, the next build does."""
    with _not_cancelled():
        for _ in range(_TRIES_TO_CLEAN_UP):
            if connection.invalidated:
                return
            try:
                with in_migration.outside_transaction():  # the one under way may have failed
                    pass
                in_migration.keep_others_out()
                if _others_build(connection):  # then what there is, is theirs
                    return
                found = state.optional_index(connection, airflow_schema)
                if found in {OptionalIndex.INVALID, OptionalIndex.OUTDATED}:
                    with in_migration.outside_transaction():
                        _drop(airflow_schema)
            except sa.exc.DBAPIError as error:
                if sqlstate(error) != _QUERY_CANCELED:  # by a request that was under way
                    return
            else:
                return


@contextmanager
def _not_cancelled() -> Iterator[None]:
    """Keep Ctrl-C from cancelling what cleans up."""
    was_told = _told("not_to_cancel").is_set()
    _told("not_to_cancel").set()
    try:
        yield
    finally:
        if not was_told:
            _told("not_to_cancel").clear()


def _refuse_foreign(found: OptionalIndex, airflow_schema: str) -> None:
    if found is OptionalIndex.FOREIGN:
        raise DagbumpError(
            f'in schema "{airflow_schema}" is something named {INDEX} that is not the optional index: look what it is, '
            "and drop or rename it."
        )


def _refuse_who_may_not(connection: sa.engine.Connection, airflow_schema: str, *, create: bool) -> None:
    """Refuse a role that only SET ROLE makes the owner, and, where one is to be made, one that may make none."""
    who = connection.execute(_WHO_WORKS, {"schema": airflow_schema}).first()
    if who is None:
        return
    if not who.inherits:
        raise InsufficientPrivilege(
            f"{INDEX} is built and dropped outside of any transaction, where {who.role} cannot act as {who.owner}, the "
            f"owner of Airflow's tables, because it does not inherit that role's rights. Connect as {who.owner}."
        )
    if create and not who.may_create:
        grant = f"GRANT CREATE ON SCHEMA {sql_files.identifier(airflow_schema)} TO {sql_files.identifier(who.role)};"
        raise InsufficientPrivilege(
            f"{who.role} may not create an index in the schema of Airflow's tables: have the owner of that schema, or "
            f"a superuser, run: {grant}"
        )


def _drop(airflow_schema: str) -> None:
    with _not_cancelled():
        in_migration.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {sql_files.identifier(airflow_schema)}.{INDEX}")


def _connection() -> sa.engine.Connection:
    connection = context.get_bind()
    assert isinstance(connection, sa.engine.Connection)  # noqa: S101  (for the type checker: this is no script)
    return connection
