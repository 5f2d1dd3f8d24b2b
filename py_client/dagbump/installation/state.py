"""Checks what a database has of dagbump, before anything in schema ``dagbump`` is called or trusted.

This module does not import Alembic, because the command line and the Airflow plugin use it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import sqlalchemy as sa

from dagbump import search_path
from dagbump.errors import (
    InsufficientPrivilege,
    NotInstalled,
    UnsupportedAirflow,
    VersionMismatch,
    summary,
    translated,
    what_to_grant,
)
from dagbump.installation import sql_files
from dagbump.installation.names import SCHEMA
from dagbump.installation.shapes import FIRST, SHAPES, Shape, label_of

# The newest revision of the main branch in this package, and the oldest revision that this package works with.
NEWEST_REVISION = "0001"
OLDEST_REVISION = "0001"

_HAS_TASK_INSTANCE = sa.text(
    """
    SELECT TRUE
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE namespace.nspname::text = :schema AND class.relname::text = 'task_instance'
    AND class.relkind::text IN ('r', 'p', 'v', 'f')
    """
)

_HAS_COLUMN = sa.text(
    """
    SELECT TRUE
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    JOIN pg_catalog.pg_attribute AS attribute ON attribute.attrelid = class.oid
    WHERE namespace.nspname::text = :schema AND class.relname::text = :relation
    AND attribute.attname::text = :attribute AND NOT attribute.attisdropped
    """
)


class OptionalIndex(Enum):
    """The state of the optional index, with the text for messages."""

    MISSING = "is not there: --with-index builds it"
    INVALID = "is not valid: --with-index rebuilds it"
    OUTDATED = "was built before Airflow's tables changed: --with-index rebuilds it"
    VALID = "is there"
    FOREIGN = "is not there, but something else of that name is"


@dataclass(frozen=True)
class Installed:
    """An installation: what its functions work on, and a row of ``dagbump.installation``.

    Attributes:
        airflow_schema: the schema of Airflow's tables, as the functions have it.
        airflow_shape: the key of the shape of Airflow's tables for which the functions were made.
        revision: the Alembic revision of the main branch.
        works_with_packages_from: the oldest revision whose package works with this installation.
        release: the release of the package that ran the upgrade.
    """

    airflow_schema: str
    airflow_shape: str
    revision: str
    works_with_packages_from: str
    release: str


def pinned(connection: sa.engine.Connection) -> str | None:
    """Pin the search path, and return the first schema of the old path that has a task_instance."""
    return next((schema for schema in search_path.pin(connection) if has_task_instance(connection, schema)), None)


def find_airflow_schema(connection: sa.engine.Connection, named: str | None) -> str:
    """Return the named schema, else the one on the search path, else the one that dagbump already serves.

    This pins the search path for the transaction.
    """
    on_path = pinned(connection)
    # If there is no such schema, the check of an upgrade says so.
    return named or on_path or served_schema(connection) or "public"


def has_task_instance(connection: sa.engine.Connection, schema: str) -> bool:
    """Return whether a schema has a relation named task_instance."""
    return bool(connection.scalar(_HAS_TASK_INSTANCE, {"schema": schema}))


def airflow_shape(connection: sa.engine.Connection, schema: str) -> Shape:
    """Return the shape of Airflow's tables in a schema; the first shape if none is recognized."""
    for shape in reversed(SHAPES):
        if shape.probe is None or _has_column(connection, schema, *shape.probe):
            return shape
    return FIRST


def _has_column(connection: sa.engine.Connection, schema: str, relation: str, attribute: str) -> bool:
    names = {"schema": schema, "relation": relation, "attribute": attribute}
    return bool(connection.scalar(_HAS_COLUMN, names))


def served_schema(connection: sa.engine.Connection) -> str | None:
    """Return the schema on which the installed functions work; None if there are none, or if it was renamed."""
    row = _find_served(connection, None)
    return row.served if row else None


def _find_served(connection: sa.engine.Connection, airflow_schema: str | None) -> sa.engine.Row[Any] | None:
    # If the schema is unknown, use pg_catalog, in which nobody can have a table.
    text = sql_files.render(sql_files.installer("find_served_schema"), airflow_schema or "pg_catalog")
    return connection.execute(sql_files.as_it_is(text)).first()


def named_as_optional_index(connection: sa.engine.Connection) -> Sequence[sa.engine.Row[Any]]:
    """Return each relation with the optional index's name: its ``schema``, ``ours``, ``valid``, ``mine``, ``fits``."""
    text = sql_files.render(sql_files.installer("find_optional_index"), "pg_catalog")
    return connection.execute(sql_files.as_it_is(text)).all()


def optional_index(connection: sa.engine.Connection, airflow_schema: str) -> OptionalIndex:
    """Return the state of the optional index in a schema."""
    named = named_as_optional_index(connection)
    row = next((row for row in named if row.schema == airflow_schema), None)
    if row is None:
        return OptionalIndex.MISSING
    if not row.ours:
        return OptionalIndex.FOREIGN
    if not row.fits:
        return OptionalIndex.OUTDATED
    return OptionalIndex.VALID if row.valid else OptionalIndex.INVALID


def require_usable(connection: sa.engine.Connection, airflow_schema: str | None = None) -> Installed:
    """Return the installation, if it is dagbump's and this package can work with it.

    The search path stays pinned to pg_catalog for the transaction.

    Args:
        connection: a connection to the database.
        airflow_schema: the schema of Airflow's tables; None: the schema on the search path that has ``task_instance``.

    Raises:
        NotInstalled: there is no schema ``dagbump``, or it belongs to another role than Airflow's tables.
        UnsupportedAirflow: dagbump serves another Airflow than this one, or Airflow's tables have changed since.
        VersionMismatch: the installation is too old for this package, or this package is too old for the installation.
        InsufficientPrivilege: this role may not read ``dagbump.installation``.
    """
    on_path = pinned(connection)
    found = _require_ours(connection, airflow_schema or on_path)
    installed = _read(connection, found)
    _require_in_range(installed)
    _require_its_shape(connection, installed)
    return installed


def find_ours(connection: sa.engine.Connection, airflow_schema: str | None) -> sa.engine.Row[Any] | None:
    """Return a row whose ``served`` is the schema that dagbump works on; None if there is no schema ``dagbump``.

    If Airflow's tables are gone, nothing tells who their owner was. Then only the owner of the schema can know that it
    is dagbump's.

    Raises:
        NotInstalled: the schema, or an object in it, belongs to another role than the owner of Airflow's tables.
    """
    found = _find_served(connection, airflow_schema)
    if found is not None and found.by_owner is None:
        found = _find_served(connection, found.served)
    if found is None:
        return None
    if found.by_owner is False:
        raise NotInstalled(
            f"schema {SCHEMA} belongs to {found.belongs_to}, not to the owner of Airflow's tables. Nothing in it was "
            "called. `dagbump upgrade` says more."
        )
    if found.by_owner is None and not found.by_current_role:
        raise NotInstalled(
            f"schema {SCHEMA} belongs to {found.belongs_to}, and there is no Airflow that it serves. Nothing in it was "
            f"called. If that is right, connect as {found.belongs_to}; if not, `dagbump upgrade` says more."
        )
    text = sql_files.render(sql_files.installer("find_foreign_objects"), "pg_catalog")
    findings = connection.scalars(sql_files.as_it_is(text)).all()
    if findings:
        raise NotInstalled(
            f"schema {SCHEMA} has objects that dagbump did not create: {'; '.join(findings)}. Nothing in it was "
            "called. Find out who created them and why, and give them back, drop or rename them."
        )
    return found


def _require_ours(connection: sa.engine.Connection, airflow_schema: str | None) -> sa.engine.Row[Any]:
    found = find_ours(connection, airflow_schema)
    if found is None:
        raise NotInstalled("dagbump is not installed in this database: run `dagbump upgrade`.")
    if found.served is None:
        raise NotInstalled(
            "dagbump is not installed in this database, or not for an Airflow that is there: run `dagbump upgrade`."
        )
    if airflow_schema not in {None, found.served}:
        raise UnsupportedAirflow(
            f'dagbump in this database serves the Airflow in schema "{found.served}", but "{airflow_schema}" was asked '
            f'for or is first on the search path. For "{found.served}", use --airflow-schema. An Airflow in '
            f'"{airflow_schema}" needs a database of its own.'
        )
    return found


def _read(connection: sa.engine.Connection, found: sa.engine.Row[Any]) -> Installed:
    query = sa.text("SELECT airflow_shape, revision, works_with_packages_from, release FROM dagbump.installation")
    try:
        with translated():
            row = connection.execute(query).first()
    except UnsupportedAirflow:  # the table is not there
        row = None
    except InsufficientPrivilege as error:
        denied = f"{summary(error)}, as {found.asked_by}"
        raise InsufficientPrivilege(f"{denied}\n{what_to_grant(found.belongs_to, found.asked_by)}") from error
    if row is None:
        raise NotInstalled("only a part of dagbump is in this database, as after a restore: run `dagbump upgrade`.")
    return Installed(found.served, *row)


def _require_its_shape(connection: sa.engine.Connection, installed: Installed) -> None:
    found = airflow_shape(connection, installed.airflow_schema)
    if installed.airflow_shape != found.key:
        raise UnsupportedAirflow(
            f"Airflow's tables have changed since dagbump was installed: they are as in Airflow {found.label}, but "
            f"dagbump's functions are for {label_of(installed.airflow_shape)}. Run `dagbump upgrade` to replace them."
        )


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
