"""The search path of what dagbump itself asks: pg_catalog and nothing else, one transaction at a time.

With another path, PostgreSQL takes an operator that somebody has made where it has none itself for the very types of
the operands, such as name and varchar, and runs it as whoever asks. The path is pinned for the transaction, never for
the session: behind PgBouncer in transaction mode, the next client would get it.
"""

from __future__ import annotations

import sqlalchemy as sa

PIN = "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', TRUE)"
_SCHEMAS = "SELECT pg_catalog.current_schemas(FALSE)::pg_catalog.text[]"
_INFO = "dagbump_schemas_on_path"


def pin(connection: sa.engine.Connection) -> list[str]:
    """Pin the search path for this transaction; return the schemas that the connection's own path leads to.

    Temporary tables and pg_catalog are left aside, unless the path names them.
    """
    if _INFO not in connection.info:  # later, there is a pinned path to be seen
        found = connection.exec_driver_sql(_SCHEMAS).scalar_one()
        connection.info.setdefault(_INFO, found)  # where this is what began the transaction, it is pinned already
    connection.exec_driver_sql(PIN)
    schemas: list[str] = connection.info[_INFO]
    return schemas
