"""What a database holds of dagbump, looked at before anything in its schema is called or believed.

Brings no Alembic: the command line and the Airflow plugin look here.
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

# The newest revision of the main branch that this package brings, and the oldest that it works with.
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
    """What there is under the optional index's name, and what to say of it."""

    MISSING = "is not there: --with-index builds it"
    INVALID = "is not valid: --with-index mends it"
    OUTDATED = "was built for other tables of Airflow's than these: --with-index builds it anew"
    VALID = "is there"
    FOREIGN = "is not there, but something else of that name is"


@dataclass(frozen=True)
class Installed:
    """A row of ``dagbump.installation``.

    Attributes:
        airflow_schema: the schema of Airflow's tables.
        airflow_shape: the key of the shape of Airflow's tables that the functions were made for.
        revision: the Alembic revision, the optional index aside.
        works_with_packages_from: the oldest revision whose package works with it.
        release: the release of the package that ran the upgrade.
    """

    airflow_schema: str
    airflow_shape: str
    revision: str
    works_with_packages_from: str
    release: str


def pinned(connection: sa.engine.Connection) -> str | None:
    """Pin the search path, and return the first schema that it had with a task_instance in it."""
    return next((schema for schema in search_path.pin(connection) if has_task_instance(connection, schema)), None)


def find_airflow_schema(connection: sa.engine.Connection, named: str | None) -> str:
    """Return the schema that was named, else the one on the search path, else the one that dagbump serves already.

    Pins the search path for the transaction.
    """
    on_path = pinned(connection)
    # Where there is none at all, the check of an upgrade says so.
    return named or on_path or served_schema(connection) or "public"


def has_task_instance(connection: sa.engine.Connection, schema: str) -> bool:
    """Say whether there is a relation of that name in a schema."""
    return bool(connection.scalar(_HAS_TASK_INSTANCE, {"schema": schema}))


def airflow_shape(connection: sa.engine.Connection, schema: str) -> Shape:
    """Return the shape that Airflow's tables in a schema have, if they have any that is known."""
    for shape in reversed(SHAPES):
        if shape.probe is None or _has_column(connection, schema, *shape.probe):
            return shape
    return FIRST


def _has_column(connection: sa.engine.Connection, schema: str, relation: str, attribute: str) -> bool:
    names = {"schema": schema, "relation": relation, "attribute": attribute}
    return bool(connection.scalar(_HAS_COLUMN, names))


def served_schema(connection: sa.engine.Connection) -> str | None:
    """Return the schema that the installed functions work on; None where there are none, or it has been renamed."""
    row = _find_served(connection, None)
    return row.served if row else None


def _find_served(connection: sa.engine.Connection, airflow_schema: str | None) -> sa.engine.Row[Any] | None:
    # Where it is not known, a schema in which nobody can have a table.
    text = sql_files.render(sql_files.installer("find_served_schema"), airflow_schema or "pg_catalog")
    return connection.execute(sql_files.as_it_is(text)).first()


def named_as_optional_index(connection: sa.engine.Connection) -> Sequence[sa.engine.Row[Any]]:
    """Return what has the optional index's name: its ``schema``; is it ``ours``, ``valid``, ``mine``; ``fits``."""
    text = sql_files.render(sql_files.installer("find_optional_index"), "pg_catalog")
    return connection.execute(sql_files.as_it_is(text)).all()


def optional_index(connection: sa.engine.Connection, airflow_schema: str) -> OptionalIndex:
    """Say what there is in that schema under the optional index's name."""
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
    """Return what is installed, where this package can work with it, and it is dagbump's.

    Args:
        connection: of whoever wants to use it.
        airflow_schema: where that one's Airflow has its tables; None: where ``task_instance`` is on the search path.

    Leaves the search path pinned to pg_catalog for the transaction.

    Raises:
        NotInstalled: there is no schema ``dagbump``, or it is somebody else's.
        UnsupportedAirflow: it serves another Airflow than that, or Airflow's tables have changed since.
        VersionMismatch: it is too old for this package, or this package for it.
        InsufficientPrivilege: this role may not read ``dagbump.installation``.
    """
    on_path = pinned(connection)
    found = _require_ours(connection, airflow_schema or on_path)
    installed = _read(connection, found)
    _require_in_range(installed)
    _require_its_shape(connection, installed)
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
            f"schema {SCHEMA} holds what dagbump has not created: {'; '.join(findings)}. Nothing in it was called. "
            "Find out who created it, and why; then give it back, drop or rename it."
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
            f'dagbump in this database serves the Airflow in schema "{found.served}", not one in "{airflow_schema}", '
            "which was named, or is where the search path leads. If you mean the former, name it with "
            "--airflow-schema; the latter needs a database of its own."
        )
    return found


def _read(connection: sa.engine.Connection, found: sa.engine.Row[Any]) -> Installed:
    query = sa.text(
        "SELECT airflow_schema, airflow_shape, revision, works_with_packages_from, release FROM dagbump.installation"
    )
    try:
        with translated():
            row = connection.execute(query).first()
    except UnsupportedAirflow:  # the table is not there
        row = None
    except InsufficientPrivilege as error:
        denied = f"{summary(error)}, as {found.asked_by}"
        raise InsufficientPrivilege(f"{denied}\n{what_to_grant(found.belongs_to, found.asked_by)}") from error
    if row is None:
        raise NotInstalled("dagbump is installed in part in this database, as after a restore: run `dagbump upgrade`.")
    return Installed(*row)


def _require_its_shape(connection: sa.engine.Connection, installed: Installed) -> None:
    found = airflow_shape(connection, installed.airflow_schema)
    if installed.airflow_shape != found.key:
        raise UnsupportedAirflow(
            f"Airflow's tables have changed since dagbump was installed: they are as in Airflow {found.label}, and its "
            f"functions are for {label_of(installed.airflow_shape)}. Run `dagbump upgrade`, which makes them anew."
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
