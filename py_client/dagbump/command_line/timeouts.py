"""Replaces the timeouts that the role or the database has, for one transaction.

A setting of the session would stay on the server connection of a pooler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagbump.command_line.postponed import Postponed

if TYPE_CHECKING:
    import sqlalchemy as sa
else:
    sa = Postponed("sqlalchemy")

# Before PostgreSQL 17 there is no transaction_timeout.
_REPLACE = """
    SELECT pg_catalog.set_config('lock_timeout', :lock, TRUE),
           pg_catalog.set_config('statement_timeout', :statement, TRUE),
           pg_catalog.set_config('idle_in_transaction_session_timeout', :silence, TRUE),
           CASE WHEN pg_catalog.current_setting('transaction_timeout', TRUE) IS NOT NULL
                THEN pg_catalog.set_config('transaction_timeout', '0', TRUE) END
"""


def replace(connection: sa.engine.Connection, *, lock: float = 0, statement: float = 0, silence: float = 0) -> None:
    """Give the transaction that is open these timeouts, in seconds, and no others; 0 is no limit.

    Args:
        connection: has a transaction open.
        lock: how long a statement waits for a lock.
        statement: how long a statement takes.
        silence: how long the client sends nothing.
    """
    seconds = {"lock": lock, "statement": statement, "silence": silence}
    connection.execute(sa.text(_REPLACE), {name: f"{value * 1000:.0f}" for name, value in seconds.items()})
