"""Refuses to let a superuser run code that an ordinary role owns; every command calls this check before it reads.

The owner of a table can attach code to it, such as a trigger, which runs with the rights of every role that uses the
table. The owner can do so even while another session waits for the table. PostgreSQL protects nobody from that. So a
superuser may work on the tables of an ordinary role only with --trust-owner. This check itself reads only pg_catalog,
which the owner can neither change nor lock.
"""

from __future__ import annotations

import sqlalchemy as sa

from dagbump.errors import InsufficientPrivilege
from dagbump.installation import state

VARIABLE = "DAGBUMP_TRUST_OWNER"

# The tables that dagbump reads in any release of Airflow. A member of a superuser role counts as a superuser, because
# it can become one with SET ROLE.
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
    """Refuse a superuser if Airflow's tables belong to an ordinary role.

    Args:
        connection: the connection to check.
        airflow_schema: the schema of Airflow's tables; None: the schema in which an upgrade would find them.

    Raises:
        InsufficientPrivilege: the connection's role is or can become a superuser, and the owner of the tables is not
            one; the message says what to do.
    """
    schema = state.find_airflow_schema(connection, airflow_schema)
    found = connection.execute(_OWNER, {"schema": schema}).first()
    if found is not None:
        raise InsufficientPrivilege(
            f"{found.role} is a superuser, or may become one, but Airflow's tables belong to {found.owner}, which is "
            f"not one. Code that {found.owner} has attached to the tables would run with a superuser's rights, so "
            f"nothing was read.\nConnect as {found.owner}. Or, if you trust that role with a superuser's rights, add "
            f"--trust-owner (or set {VARIABLE}=1)."
        )
