"""Whose code may run: the one check that stands before everything that a command reads.

Whoever owns a table can put code in the way of everybody who reads or writes it, and can do so while somebody waits for
it: PostgreSQL protects nobody from that. So a superuser works for an owner with fewer rights only after saying so. What
is asked here is asked of pg_catalog, which that owner can neither change nor lock.
"""

from __future__ import annotations

import sqlalchemy as sa

from dagbump.errors import InsufficientPrivilege
from dagbump.installation import state

VARIABLE = "DAGBUMP_TRUST_OWNER"

# The tables that dagbump reads, in whichever release of Airflow. A member of a superuser's role may become one.
_OWNER = sa.text(
    """
    SELECT owner.rolname::text AS owner, CURRENT_USER::text AS role
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    JOIN pg_catalog.pg_roles AS owner ON owner.oid = class.relowner
    WHERE namespace.nspname::text = :schema
    AND class.relname::text IN (
        'task_instance', 'task_instance_history', 'dag', 'dag_run', 'dag_version', 'serialized_dag', 'backfill',
        'backfill_dag_run'
    )
    AND NOT owner.rolsuper
    AND EXISTS (
        SELECT FROM pg_catalog.pg_roles AS superuser
        WHERE superuser.rolsuper AND (
            pg_catalog.pg_has_role(SESSION_USER, superuser.oid, 'MEMBER')
            OR pg_catalog.pg_has_role(CURRENT_USER, superuser.oid, 'MEMBER')
        )
    )
    ORDER BY class.relname::text <> 'task_instance', owner.rolname::text
    LIMIT 1
    """
)


def refuse_superuser_of_another_owner(connection: sa.engine.Connection, airflow_schema: str | None) -> None:
    """Refuse a superuser where Airflow's tables belong to a role that is none.

    Args:
        connection: the superuser's.
        airflow_schema: where Airflow's tables are; None: where an upgrade would find them.

    Raises:
        InsufficientPrivilege: it is such a one; the message says what to do.
    """
    schema = state.find_airflow_schema(connection, airflow_schema)
    found = connection.execute(_OWNER, {"schema": schema}).first()
    if found is not None:
        raise InsufficientPrivilege(
            f"{found.role} is a superuser, or may become one, and Airflow's tables belong to {found.owner}, who is "
            f"none: what {found.owner} puts in their way would run with a superuser's rights. Nothing was read.\n"
            f"Connect as {found.owner}; or, where you trust that role with all that a superuser may do, say "
            f"--trust-owner (or {VARIABLE}=1)."
        )
