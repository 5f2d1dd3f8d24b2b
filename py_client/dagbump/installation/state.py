"""What a database holds of dagbump, looked at before anything in its schema is called or believed.

Brings no Alembic: the command line and the Airflow plugin look here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dagbump.errors import NotInstalled, UnsupportedAirflow, VersionMismatch, translated
from dagbump.installation import sql_files
from dagbump.installation.names import INDEX, SCHEMA

# The newest revision of the main branch that this package brings, and the oldest that it works with.
NEWEST_REVISION = "0001"
OLDEST_REVISION = "0001"

_PATH = sa.text("SELECT pg_catalog.unnest(pg_catalog.current_schemas(FALSE))::text")
_HAS_TASK_INSTANCE = sa.text(
    """
    SELECT TRUE
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE namespace.nspname::text = :schema AND class.relname::text = 'task_instance'
    AND class.relkind::text IN ('r', 'p', 'v', 'f')
    """
)

_INDEX_IS_VALID = sa.text(
    f"""
    SELECT index.indisvalid
    FROM pg_catalog.pg_index AS index
    JOIN pg_catalog.pg_class AS class ON class.oid = index.indexrelid
    JOIN pg_catalog.pg_class AS tis ON tis.oid = index.indrelid
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE class.relname::text = '{INDEX}' AND tis.relname::text = 'task_instance' AND namespace.nspname::text = :schema
    """  # noqa: S608  (a constant)
)


@dataclass(frozen=True)
class Installed:
    """A row of ``dagbump.installation``.

    Attributes:
        airflow_schema: the schema of Airflow's tables.
        revision: the Alembic revision, the optional index aside.
        works_with_packages_from: the oldest revision whose package works with it.
        release: the release of the package that ran the upgrade.
    """

    airflow_schema: str
    revision: str
    works_with_packages_from: str
    release: str


def schema_on_path(connection: sa.engine.Connection) -> str | None:
    """Return the first schema on the search path with a task_instance, temporary tables left aside."""
    return next((schema for schema in connection.scalars(_PATH).all() if has_task_instance(connection, schema)), None)


def has_task_instance(connection: sa.engine.Connection, schema: str) -> bool:
    """Say whether there is a relation of that name in a schema."""
    return bool(connection.scalar(_HAS_TASK_INSTANCE, {"schema": schema}))


def served_schema(connection: sa.engine.Connection) -> str | None:
    """Return the schema that the installed functions work on; None where there are none, or it has been renamed."""
    row = _find_served(connection, None)
    return row.served if row else None


def _find_served(connection: sa.engine.Connection, airflow_schema: str | None) -> sa.engine.Row[Any] | None:
    # Where it is not known, a schema in which nobody can have a table.
    text = sql_files.render(sql_files.installer("find_served_schema"), airflow_schema or "pg_catalog")
    return connection.execute(sql_files.as_it_is(text)).first()


def index_is_valid(connection: sa.engine.Connection, airflow_schema: str) -> bool | None:
    """Say whether the optional index in that schema is valid; None: it is not there."""
    valid: bool | None = connection.scalar(_INDEX_IS_VALID, {"schema": airflow_schema})
    return valid


def require_usable(connection: sa.engine.Connection, airflow_schema: str | None = None) -> Installed:
    """Return what is installed, where this package can work with it, and it is dagbump's.

    Args:
        connection: of whoever wants to use it.
        airflow_schema: where that one's Airflow has its tables; None: where ``task_instance`` is on the search path.

    Raises:
        NotInstalled: there is no schema ``dagbump``, or it is somebody else's.
        UnsupportedAirflow: it serves another Airflow than that.
        VersionMismatch: it is too old for this package, or this package for it.
        InsufficientPrivilege: this role may not read ``dagbump.installation``.
    """
    _require_ours(connection, airflow_schema or schema_on_path(connection))
    installed = _read(connection)
    _require_in_range(installed)
    return installed


def find_ours(connection: sa.engine.Connection, airflow_schema: str | None) -> sa.engine.Row[Any] | None:
    """Return what schema ``dagbump`` serves (as ``served``), None where there is no such schema.

    Raises:
        NotInstalled: it is somebody else's, or holds what is.
    """
    found = _find_served(connection, airflow_schema)
    if found is None:
        return None
    if found.by_owner is False:
        raise NotInstalled(
            f"there is a schema {SCHEMA} that does not belong to the owner of Airflow's tables, but to "
            f"{found.belongs_to}; nothing in it was called. `dagbump upgrade` says more."
        )
    text = sql_files.render(sql_files.installer("find_foreign_objects"), "pg_catalog")
    findings = connection.scalars(sql_files.as_it_is(text)).all()
    if findings:
        raise NotInstalled(
            f"in schema {SCHEMA} is what dagbump has not put there: {'; '.join(findings)}. Nothing in it was called."
        )
    return found


def _require_ours(connection: sa.engine.Connection, airflow_schema: str | None) -> None:
    found = find_ours(connection, airflow_schema)
    if found is None:
        raise NotInstalled("dagbump is not installed in this database: run `dagbump upgrade`.")
    if found.served is None:
        raise NotInstalled(
            "dagbump is not installed in this database, or not for an Airflow that is there: run `dagbump upgrade`."
        )
    if airflow_schema not in {None, found.served}:
        raise UnsupportedAirflow(
            f'dagbump in this database serves the Airflow in schema "{found.served}", and this connection\'s is in '
            f'"{airflow_schema}". If you mean the former, say --airflow-schema; the latter needs a database of its own.'
        )


def _read(connection: sa.engine.Connection) -> Installed:
    query = sa.text("SELECT airflow_schema, revision, works_with_packages_from, release FROM dagbump.installation")
    try:
        with translated():
            row = connection.execute(query).first()
    except UnsupportedAirflow:  # the table is not there
        row = None
    if row is None:
        raise NotInstalled("dagbump is installed in part in this database, as after a restore: run `dagbump upgrade`.")
    return Installed(*row)


def _require_in_range(installed: Installed) -> None:
    if installed.revision < OLDEST_REVISION:
        raise VersionMismatch(
            f"this database holds dagbump {installed.revision}, and this package works with {OLDEST_REVISION} and "
            "later: run `dagbump upgrade`."
        )
    if installed.works_with_packages_from > NEWEST_REVISION:
        raise VersionMismatch(
            f"this database holds dagbump {installed.revision}, of release {installed.release}, which breaks this "
            f"package: upgrade the package, pip install 'dagbump>={installed.release}'."
        )
