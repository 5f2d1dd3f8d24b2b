"""The optional index, built and dropped CONCURRENTLY: one at a time, and what was cut off is cleaned up.

What counts is the index in the catalog, never a record of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

import sqlalchemy as sa
from alembic import context

from dagbump.errors import DagbumpError, InsufficientPrivilege
from dagbump.installation import in_migration, sql_files, state
from dagbump.installation.names import INDEX, INDEX_LOCK

_POLL_SECONDS = 0.2


class BuiltMeanwhile(Exception):  # noqa: N818  (not an error: a reason to look again)
    """Another upgrade has built the index, and recorded it, while this one waited for its turn."""


class Stopped(Exception):  # noqa: N818
    """Whoever waits for its turn has been asked to stop."""


@contextmanager
def building(revision: str) -> Iterator[None]:
    """Prepare for the CREATE INDEX CONCURRENTLY in the body, which runs outside of any transaction.

    An invalid index, which a build that was cut off leaves behind, is dropped: an earlier one's first, and this one's
    at the end; so is one that was built for other tables.

    Args:
        revision: the revision that the migration under way records.

    Raises:
        BuiltMeanwhile: there is nothing left to do.
        DagbumpError: something else has that name.
    """
    airflow_schema: str = context.get_context().opts["airflow_schema"]
    with context.get_context().autocommit_block():
        if context.get_context().as_sql:  # a script cannot look; nor can two of them be kept apart
            _drop(airflow_schema)
            yield
            return
        connection = _connection()
        _wait_for_turn(connection)
        recorded = sa.text("SELECT TRUE FROM dagbump.alembic_version WHERE version_num = :revision")
        if connection.scalar(recorded, {"revision": revision}):
            raise BuiltMeanwhile
        _refuse_foreign(connection, airflow_schema)
        _refuse_who_may_not_create(connection, airflow_schema)
        _drop_if_useless(connection, airflow_schema)
        try:
            yield
        finally:
            if not connection.invalidated:  # else the next try cleans up
                _drop_if_useless(connection, airflow_schema)


def drop() -> None:
    """Drop the index, wherever it is, without blocking anybody."""
    with context.get_context().autocommit_block():
        if context.get_context().as_sql:
            _drop(context.get_context().opts["airflow_schema"])
            return
        connection = _connection()
        _wait_for_turn(connection)
        for airflow_schema in _schemas_of_ours(connection):
            _drop(airflow_schema)


def is_left(connection: sa.engine.Connection) -> bool:
    """Say whether there is such an index anywhere."""
    return bool(_schemas_of_ours(connection))


def _schemas_of_ours(connection: sa.engine.Connection) -> list[str]:
    """Return where there is one that this role may drop, wherever Airflow's tables are by now."""
    return [row.schema for row in state.named_as_optional_index(connection) if row.ours and row.mine]


def _refuse_foreign(connection: sa.engine.Connection, airflow_schema: str) -> None:
    if state.optional_index(connection, airflow_schema) is state.OptionalIndex.FOREIGN:
        raise DagbumpError(
            f'in schema "{airflow_schema}" is something named {INDEX} that is not the optional index: look what it is, '
            "and drop or rename it."
        )


def _refuse_who_may_not_create(connection: sa.engine.Connection, airflow_schema: str) -> None:
    may_create = sa.text("SELECT CURRENT_USER, pg_catalog.has_schema_privilege(:schema, 'CREATE')")
    role, allowed = connection.execute(may_create, {"schema": airflow_schema}).one()
    if not allowed:
        grant = f"GRANT CREATE ON SCHEMA {sql_files.identifier(airflow_schema)} TO {sql_files.identifier(role)};"
        raise InsufficientPrivilege(
            f"the owner of Airflow's tables, {role}, may not create an index in their schema: have the owner of the "
            f"schema, or a superuser, run: {grant}"
        )


def _drop(airflow_schema: str) -> None:
    in_migration.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {sql_files.identifier(airflow_schema)}.{INDEX}")


def _drop_if_useless(connection: sa.engine.Connection, airflow_schema: str) -> None:
    if state.optional_index(connection, airflow_schema) in {state.OptionalIndex.INVALID, state.OptionalIndex.OUTDATED}:
        _drop(airflow_schema)


def _connection() -> sa.engine.Connection:
    connection = context.get_bind()
    assert isinstance(connection, sa.engine.Connection)  # noqa: S101  (for the type checker: this is no script)
    return connection


def _wait_for_turn(connection: sa.engine.Connection) -> None:
    # The lock is the session's, and goes with the connection: until then, the revision has to be recorded.
    # To wait inside the server would be to hold a snapshot, for whose end the build that is waited for waits.
    stopping: Event = context.config.attributes.get("stopping") or Event()
    while not connection.scalar(sa.text("SELECT pg_catalog.pg_try_advisory_lock(:lock)"), {"lock": INDEX_LOCK}):
        if stopping.wait(_POLL_SECONDS):
            raise Stopped
