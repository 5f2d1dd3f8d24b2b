"""The work of ``dagbump check``: call `dagbump.check`, or say why it cannot be called or trusted."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from dagbump import __version__, client
from dagbump.errors import DagbumpError, ExitCode, summary, translated
from dagbump.installation import sql_files, state
from dagbump.results import CheckItem
from dagbump.wording import one_line


@dataclass(frozen=True)
class Report:
    """The result of a check.

    Attributes:
        items: the rows.
        exit_code: 0 if all rows are ok, 1 if a row is not, 4 if dagbump is not installed or cannot be used.
    """

    items: tuple[CheckItem, ...]
    exit_code: ExitCode


def look(connection: sa.engine.Connection, airflow_schema: str | None = None) -> Report:
    """Check a database in any state; this only reads, and calls only functions that are provably dagbump's.

    Args:
        connection: a connection to the database.
        airflow_schema: the schema of Airflow's tables; None: the schema on the search path that has ``task_instance``.
    """
    try:
        with translated():
            installed = state.require_usable(connection, airflow_schema)
        items = (_package(installed), *client.check(connection))
    except DagbumpError as error:
        return _unusable(connection, airflow_schema, str(error), error.exit_code)
    except sa.exc.DBAPIError as error:
        if error.connection_invalidated:
            raise
        return _unusable(connection, airflow_schema, summary(error), ExitCode.THE_WORK_FAILED)
    return Report(items, ExitCode.DONE if all(item.ok for item in items) else ExitCode.THE_WORK_FAILED)


def _package(installed: state.Installed) -> CheckItem:
    detail = f"release {__version__}, works with revision {state.OLDEST_REVISION} and later"
    if installed.revision < state.NEWEST_REVISION:
        detail += f"; it brings {state.NEWEST_REVISION}: `dagbump upgrade` installs that, when you like"
    elif installed.revision > state.NEWEST_REVISION:
        detail += f"; it also works with {installed.revision}, which the database holds"
    return CheckItem("package", ok=True, detail=detail)


def _unusable(connection: sa.engine.Connection, airflow_schema: str | None, why: str, exit_code: ExitCode) -> Report:
    """Report why dagbump cannot be used. If an upgrade would help but be refused, the reason for that comes first."""
    connection.rollback()
    items = [CheckItem("dagbump", ok=False, detail=one_line(why))]
    if "dagbump upgrade" in why:
        upgrade = _upgrade(connection, airflow_schema)
        items.insert(upgrade.ok, upgrade)
    return Report(tuple(items), exit_code)


def _upgrade(connection: sa.engine.Connection, airflow_schema: str | None) -> CheckItem:
    """Run the checks that an upgrade runs before it writes; they only read the catalogs."""
    schema = state.find_airflow_schema(connection, airflow_schema)
    shape = state.airflow_shape(connection, schema)
    refuse = sql_files.render(sql_files.installer("refuse_upgrade"), schema, shape)
    try:
        with translated():
            connection.execute(sql_files.as_it_is(refuse))
    except DagbumpError as error:
        connection.rollback()
        return CheckItem("upgrade", ok=False, detail=one_line(str(error)))
    return CheckItem("upgrade", ok=True, detail=f"`dagbump upgrade` can be run, for the Airflow in schema {schema}")
