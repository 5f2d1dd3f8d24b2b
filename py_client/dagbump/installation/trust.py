"""Refuses to let a superuser run code that an ordinary role owns; every command calls this check before it reads.

The owner of a table can attach code to it, such as a trigger, which runs with the rights of every role that uses the
table. The owner can do so even while another session waits for the table. PostgreSQL protects nobody from that. So a
superuser may work on the tables of an ordinary role, or on its schema dagbump, only with --trust-owner. This check
itself reads only pg_catalog, which the owner can neither change nor lock.
"""

from __future__ import annotations

import sqlalchemy as sa

from dagbump.errors import InsufficientPrivilege
from dagbump.installation import state
from dagbump.installation.names import RELATIONS

VARIABLE = "DAGBUMP_TRUST_OWNER"

# Where there is no task_instance, nothing tells whether the owner of a schema dagbump owned Airflow's tables. A member
# of a superuser role counts as a superuser, because it can become one with SET ROLE.
_OWNER = sa.text(
    """
    WITH airflows AS (
        SELECT class.relname::text AS relation, class.relowner AS owner
        FROM pg_catalog.pg_class AS class
        JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE namespace.nspname::text = :schema
        AND class.relname::text = ANY (CAST(:relations AS text[]))
    ),
    thing AS (
        SELECT airflows.relation, airflows.owner, 'Airflow''s tables belong' AS belong FROM airflows
        UNION ALL
        SELECT NULL, namespace.nspowner, 'there are no tables of Airflow, and schema dagbump belongs'
        FROM pg_catalog.pg_namespace AS namespace
        WHERE namespace.nspname::text = 'dagbump'
        AND NOT EXISTS (SELECT FROM airflows WHERE airflows.relation = 'task_instance')
    )
    SELECT owner.rolname::text AS owner, CURRENT_USER::text AS role, thing.belong
    FROM thing
    JOIN pg_catalog.pg_roles AS owner ON owner.oid = thing.owner
    WHERE NOT owner.rolsuper
    AND EXISTS (
        SELECT FROM pg_catalog.pg_roles AS superuser
        WHERE superuser.rolsuper AND (
            pg_catalog.pg_has_role(SESSION_USER, superuser.oid, 'MEMBER')
            OR pg_catalog.pg_has_role(CURRENT_USER, superuser.oid, 'MEMBER')
        )
    )
    ORDER BY (thing.relation = 'task_instance') IS NOT TRUE, owner.rolname::text
    LIMIT 1
    """
)


def refuse_superuser_of_another_owner(connection: sa.engine.Connection, airflow_schema: str | None) -> None:
    """Refuse a superuser if Airflow's tables belong to an ordinary role.

    Args:
        connection: the connection to check.
        airflow_schema: the schema of Airflow's tables; None: the schema in which an upgrade would find them.

    Raises:
        InsufficientPrivilege: the connection's role is or can become a superuser, and the owner of the tables is not
            one; the message says what to do.
    """
    schema = state.find_airflow_schema(connection, airflow_schema)
    found = connection.execute(_OWNER, {"schema": schema, "relations": list(RELATIONS)}).first()
    if found is not None:
        raise InsufficientPrivilege(
            f"{found.role} is a superuser, or may become one, but {found.belong} to {found.owner}, which is not one. "
            f"Code that {found.owner} has put there would run with a superuser's rights, so nothing was read.\n"
            f"Connect as {found.owner}. Or, if you trust that role with a superuser's rights, add --trust-owner (or "
            f"set {VARIABLE}=1)."
        )
