"""What ``dagbump check`` says of a database: `dagbump.check`, where that can be called and believed, else why not."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from dagbump import __version__, client
from dagbump.errors import DagbumpError, ExitCode, summary, translated
from dagbump.installation import sql_files, state
from dagbump.results import CheckItem


@dataclass(frozen=True)
class Report:
    """What a check has found.

    Attributes:
        items: a row each.
        exit_code: 0 where all is ok, 1 where a row is not, 4 where dagbump is not installed or cannot be used.
    """

    items: tuple[CheckItem, ...]
    exit_code: ExitCode


def look(connection: sa.engine.Connection, airflow_schema: str | None = None) -> Report:
    """Check a database, whatever is in it. Reads only; calls nothing that is not provably dagbump's.

    Args:
        connection: of whoever wants to know.
        airflow_schema: where that one's Airflow has its tables; None: where ``task_instance`` is on the search path.
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
        detail += f"; the database holds {installed.revision}, with which it works too"
    return CheckItem("package", ok=True, detail=detail)


def _unusable(connection: sa.engine.Connection, airflow_schema: str | None, why: str, exit_code: ExitCode) -> Report:
    """Say why nothing there can be called, and, where the advice is an upgrade, whether that would be refused."""
    connection.rollback()
    items = [CheckItem("dagbump", ok=False, detail=_one_line(why))]
    if "dagbump upgrade" in why:
        items.append(_upgrade(connection, airflow_schema))
    return Report(tuple(items), exit_code)


def _upgrade(connection: sa.engine.Connection, airflow_schema: str | None) -> CheckItem:
    """Look as an upgrade does, which reads catalogs only, before it writes anything."""
    schema = state.find_airflow_schema(connection, airflow_schema)
    shape = state.airflow_shape(connection, schema)
    refuse = sql_files.render(sql_files.installer("refuse_upgrade"), schema, shape)
    try:
        with translated():
            connection.execute(sql_files.as_it_is(refuse))
    except DagbumpError as error:
        connection.rollback()
        return CheckItem("upgrade", ok=False, detail=_one_line(str(error)))
    return CheckItem("upgrade", ok=True, detail=f"`dagbump upgrade` can be run, for the Airflow in schema {schema}")


def _one_line(message: str) -> str:
    return "; ".join(message.splitlines())
