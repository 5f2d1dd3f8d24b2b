"""Pins the search path of dagbump's own queries to pg_catalog, for one transaction.

For some pairs of types, such as name and varchar, pg_catalog has no operator. With another search path, PostgreSQL
would use an operator that somebody has created for them, and would run it with the rights of the caller. The path is
pinned for the transaction, not for the session, because behind PgBouncer in transaction mode the next client would
inherit the session's path.
"""

from __future__ import annotations

import sqlalchemy as sa

PIN = "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', TRUE)"
_SCHEMAS = "SELECT pg_catalog.current_schemas(FALSE)::pg_catalog.text[]"
_INFO = "dagbump_schemas_on_path"


def pin(connection: sa.engine.Connection) -> list[str]:
    """Pin the search path for this transaction; return the schemas of the connection's own path.

    The schemas of temporary tables and pg_catalog are left out, unless the path names them.
    """
    if _INFO not in connection.info:  # ask only once, because later the path is pinned already
        found = connection.exec_driver_sql(_SCHEMAS).scalar_one()
        # setdefault: if that query began the transaction, the "begin" event has called pin and stored the schemas.
        connection.info.setdefault(_INFO, found)
    connection.exec_driver_sql(PIN)
    schemas: list[str] = connection.info[_INFO]
    return schemas
