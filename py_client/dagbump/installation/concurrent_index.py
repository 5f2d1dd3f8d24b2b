"""Builds and drops the optional index CONCURRENTLY, one build at a time, and cleans up interrupted builds.

Decisions depend on the index in the catalog, never on a record of it.

CONCURRENTLY works only outside of a transaction. There, a search path, a role or a lock would belong to the session and
stay on a pooled connection. So these statements qualify every name and operator, and run as the role that has
connected. The turn is taken in the transaction before (`_state_in_turn`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import sqlalchemy as sa
from alembic import context

from dagbump.errors import DagbumpError, InsufficientPrivilege, sqlstate
from dagbump.installation import migration_steps, sql_files, state
from dagbump.installation.names import INDEX
from dagbump.installation.state import OptionalIndex

_POLL_SECONDS = 0.2
# The time from the COMMIT that ends a turn until the build has its lock, which other sessions can see.
_HEAD_START_SECONDS = 0.3
_DEADLOCK_DETECTED, _QUERY_CANCELED = "40P01", "57014"
_TRIES_TO_CLEAN_UP = 3

# The backends that build an index CONCURRENTLY on a task_instance of this database. The query uses their locks, which
# every role may see, because pg_stat_progress_create_index shows the table only to some roles.
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
    """Another upgrade has built and recorded the index while this one waited for its turn."""


class Stopped(Exception):  # noqa: N818
    """The build was asked to stop while it waited for its turn."""


def build(create: Path, revision: str) -> None:
    """Build the index outside of any transaction, and begin a new transaction, in which it may be recorded.

    An invalid index of an interrupted build, or an index for an older shape of Airflow's tables, is dropped first. If
    this build fails, its own invalid index is dropped too.

    Args:
        create: the file with the CREATE INDEX CONCURRENTLY.
        revision: the revision that the current migration records.

    Raises:
        BuiltMeanwhile: there is nothing left to do.
        DagbumpError: something else has the index's name, or this role may not build the index.
    """
    airflow_schema: str = context.get_context().opts["airflow_schema"]
    if context.get_context().as_sql:  # a script can neither look into the catalog nor wait for another build
        with migration_steps.outside_transaction():
            _drop(airflow_schema)
            migration_steps.run(create)
        migration_steps.begin()
        return
    connection = _connection()
    try:
        while (found := _state_in_turn(connection, airflow_schema, OptionalIndex.VALID)) is not OptionalIndex.VALID:
            _refuse_foreign(found, airflow_schema)
            with _working_outside(connection):
                _refuse_who_may_not(connection, airflow_schema, create=found is OptionalIndex.MISSING)
                if found is OptionalIndex.MISSING:
                    migration_steps.run(create)
                else:
                    _drop(airflow_schema)
    except BaseException:
        _clean_up(connection, airflow_schema)
        raise
    migration_steps.begin()
    recorded = sa.text("SELECT TRUE FROM dagbump.alembic_version WHERE version_num = :revision")
    if connection.scalar(recorded, {"revision": revision}):
        raise BuiltMeanwhile


def drop() -> None:
    """Drop the index in every schema, without blocking other sessions, and begin a new transaction."""
    if context.get_context().as_sql:
        with migration_steps.outside_transaction():
            _drop(context.get_context().opts["airflow_schema"])
        migration_steps.begin()
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
    migration_steps.begin()


def is_left(connection: sa.engine.Connection) -> bool:
    """Return whether any schema has an optional index that may be dropped."""
    return bool(_schemas_of_ours(connection))


def _schemas_of_ours(connection: sa.engine.Connection) -> list[str]:
    """Return the schemas with an optional index that the owner may drop, even if Airflow's tables have moved."""
    return [row.schema for row in state.named_as_optional_index(connection) if row.ours and row.mine]


def _state_in_turn(connection: sa.engine.Connection, airflow_schema: str, wanted: OptionalIndex) -> OptionalIndex:
    """Wait until no other session builds an index on the table; return the state of ours, or `wanted` at once.

    Two builds on the same table deadlock, and PostgreSQL cancels one of them. The second build holds a snapshot while
    it waits for the first one's lock, and the first build waits at its end for older snapshots. So a build is started
    only if no other one is running. The upgrade lock lets one session check at a time. The check comes after a short
    pause, because a build that another session has just sent becomes visible only when the server has begun it.
    """
    while True:
        migration_steps.keep_others_out()
        found = state.optional_index(connection, airflow_schema)
        if found is wanted:
            return found
        _pause(_HEAD_START_SECONDS)
        if not _others_build(connection):
            return state.optional_index(connection, airflow_schema)
        with _working_outside(connection):  # wait without an open transaction, so that no session waits for this one
            while _others_build(connection):
                _pause(_POLL_SECONDS)


def _others_build(connection: sa.engine.Connection) -> bool:
    return connection.execute(sa.text(BUILDERS)).first() is not None


def _pause(seconds: float) -> None:
    if _told("stopping").wait(seconds):
        raise Stopped


def _told(what: str) -> Event:
    """Return the event by which the migration and the thread that runs it signal each other."""
    event: Event = context.config.attributes.setdefault(what, Event())
    return event


@contextmanager
def _working_outside(connection: sa.engine.Connection) -> Iterator[None]:
    """Run the body outside of any transaction; ignore a deadlock of two builds, because the caller checks again."""
    with migration_steps.outside_transaction():
        # The progress display needs the pid. Behind a pooler the next statement may use another backend; then the
        # display shows less.
        context.config.attributes["backend_pid"] = connection.scalar(sa.text("SELECT pg_catalog.pg_backend_pid()"))
        try:
            yield
        except sa.exc.DBAPIError as error:
            if sqlstate(error) != _DEADLOCK_DETECTED:
                raise


def _clean_up(connection: sa.engine.Connection, airflow_schema: str) -> None:
    """Drop the unfinished index of a build; if that fails, the next build drops it."""
    with _not_cancelled():
        for _ in range(_TRIES_TO_CLEAN_UP):
            if connection.invalidated:
                return
            try:
                with migration_steps.outside_transaction():  # end the current transaction, which may have failed
                    pass
                migration_steps.keep_others_out()
                if _others_build(connection):  # then the unfinished index is theirs
                    return
                found = state.optional_index(connection, airflow_schema)
                if found in {OptionalIndex.INVALID, OptionalIndex.OUTDATED}:
                    with migration_steps.outside_transaction():
                        _drop(airflow_schema)
            except sa.exc.DBAPIError as error:
                if sqlstate(error) != _QUERY_CANCELED:  # a late cancel request may have hit this statement
                    return
            else:
                return


@contextmanager
def _not_cancelled() -> Iterator[None]:
    """Keep Ctrl-C from cancelling the clean-up."""
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
            f'schema "{airflow_schema}" has a {INDEX} that is not the optional index. Find out what it is, and drop or '
            "rename it."
        )


def _refuse_who_may_not(connection: sa.engine.Connection, airflow_schema: str, *, create: bool) -> None:
    """Refuse a role that does not inherit the owner's rights or that may not create an index in the schema."""
    who = connection.execute(_WHO_WORKS, {"schema": airflow_schema}).first()
    if who is None:
        return
    if not who.inherits:
        raise InsufficientPrivilege(
            f"{INDEX} is built and dropped outside of any transaction. There, {who.role} cannot act as {who.owner}, "
            "the owner of Airflow's tables, because it does not inherit that role's rights. "
            f"Connect as {who.owner}."
        )
    if create and not who.may_create:
        grant = f"GRANT CREATE ON SCHEMA {sql_files.identifier(airflow_schema)} TO {sql_files.identifier(who.role)};"
        raise InsufficientPrivilege(
            f"{who.role} may not create an index in the schema of Airflow's tables: have the owner of that schema, or "
            f"a superuser, run: {grant}"
        )


def _drop(airflow_schema: str) -> None:
    with _not_cancelled():
        migration_steps.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {sql_files.identifier(airflow_schema)}.{INDEX}")


def _connection() -> sa.engine.Connection:
    connection = context.get_bind()
    assert isinstance(connection, sa.engine.Connection)  # noqa: S101  (for the type checker: this is no script)
    return connection
