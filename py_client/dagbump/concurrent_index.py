"""Building an index CONCURRENTLY in a migration: one build at a time, and what was cut off is cleaned up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import op

# Any number that is nobody else's: the bytes of "index".
_LOCK = int.from_bytes(b"index", "big")
_POLL_SECONDS = 0.2


class BuiltMeanwhile(Exception):  # noqa: N818  (not an error: a reason to look again)
    """Another upgrade has built the index, and recorded it, while this one waited for its turn."""


@contextmanager
def building(revision: str, name: str) -> Iterator[None]:
    """Prepare for the CREATE INDEX CONCURRENTLY in the body, which runs outside of any transaction.

    An invalid index, which a build that was cut off leaves behind, is dropped: an earlier one's first, and this one's
    at the end.

    Args:
        revision: the revision that the migration under way records.
        name: of the index.

    Raises:
        BuiltMeanwhile: there is nothing left to do.
    """
    with op.get_context().autocommit_block():
        if op.get_context().as_sql:  # a script cannot look; nor can two of them be kept apart
            drop(name)
            yield
            return
        connection = op.get_bind()
        _wait_for_turn(connection)
        recorded = sa.text("SELECT TRUE FROM dagbump.alembic_version WHERE version_num = :revision")
        if connection.scalar(recorded, {"revision": revision}):
            raise BuiltMeanwhile
        _drop_if_invalid(connection, name)
        try:
            yield
        finally:
            _drop_if_invalid(connection, name)


def drop(name: str) -> None:
    """Drop the index, if it is there, without blocking anybody; runs outside of any transaction."""
    op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {_qualified(name)}")


def _wait_for_turn(connection: sa.engine.Connection) -> None:
    # The lock is the session's, and goes with the connection: until then, the revision has to be recorded.
    # To wait inside the server would be to hold a snapshot, for whose end the build that is waited for waits.
    while not connection.scalar(sa.text("SELECT pg_catalog.pg_try_advisory_lock(:lock)"), {"lock": _LOCK}):
        time.sleep(_POLL_SECONDS)


def _drop_if_invalid(connection: sa.engine.Connection, name: str) -> None:
    invalid = sa.text(
        "SELECT NOT indisvalid FROM pg_catalog.pg_index WHERE indexrelid = pg_catalog.to_regclass(:name)::oid"
    )
    if connection.scalar(invalid, {"name": _qualified(name)}):
        drop(name)


def _qualified(name: str) -> str:
    context = op.get_context()
    return f"{context.dialect.identifier_preparer.quote_identifier(context.opts['airflow_schema'])}.{name}"
