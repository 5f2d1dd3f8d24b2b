"""The transactions in which dagbump's functions are called, after a check of the installation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from dagbump.airflow_plugin.page.turns import stop_if_gone
from dagbump.errors import DagbumpError, UnsupportedAirflow, sqlstate, translated
from dagbump.installation import state

# pg_stat_activity and dagbump.history show the page by this name.
APPLICATION_NAME = "dagbump page"
_STATEMENT_TIMEOUT = "30s"
_SET = sa.text("SELECT pg_catalog.set_config(:name, :value, TRUE)")
_QUERY_CANCELED = "57014"
# Class 08, and what the server says when it ends sessions or does not let anybody in.
_CONNECTION_LOST = re.compile("08...|57P0[1-5]|53300")


class TookTooLongError(DagbumpError):
    """PostgreSQL did not finish a query within the time limit."""


def is_connection_lost(error: sa.exc.DBAPIError) -> bool:
    """Return whether the server has ended the connection, or none could be made; then it may help to ask again."""
    state = sqlstate(error)
    if state is None:  # the driver has said it, not the server
        return error.connection_invalidated or isinstance(error, sa.exc.OperationalError)
    return error.connection_invalidated or _CONNECTION_LOST.fullmatch(state) is not None


@contextmanager
def transaction() -> Iterator[sa.engine.Connection]:
    """Open a transaction in which dagbump's functions may be called; it ends with COMMIT, after an error with ROLLBACK.

    Raises:
        DagbumpError: `state.require_usable` raised, or a query took too long.
    """
    from airflow import settings
    from airflow.models.base import Base

    stop_if_gone()
    engine = settings.engine
    if engine is None or engine.dialect.name != "postgresql":
        raise UnsupportedAirflow("dagbump works only on PostgreSQL, and this Airflow uses another database.")
    with engine.begin() as connection, _in_time(), translated():
        for name, value in (("application_name", APPLICATION_NAME), ("statement_timeout", _STATEMENT_TIMEOUT)):
            connection.execute(_SET, {"name": name, "value": value})
        state.require_usable(connection, Base.metadata.schema)
        yield connection


@contextmanager
def _in_time() -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as error:
        if sqlstate(error) != _QUERY_CANCELED:
            raise
        raise TookTooLongError(
            f"PostgreSQL has not answered within {_STATEMENT_TIMEOUT}.\nOn the command line there is no such limit: "
            "dagbump preview"
        ) from error
