"""Decides which of several copies of ``dagbump run`` is the active one.

The active copy holds an advisory lock in a transaction that stays open. It is not a lock of the session, because behind
PgBouncer in transaction mode such a lock belongs to a server connection, which other clients use too. If the active
copy ends or loses its connection, the server releases the lock, and the next copy that tries gets it.

The transaction holds no snapshot and no transaction id between its statements, so it does not hold back VACUUM.

A machine that loses its power or its network closes no connection, and a process that is stopped keeps its own. So the
server ends the session, and with it the lock, if the active copy is silent for too long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dagbump.command_line import timeouts
from dagbump.command_line.deadline import Deadline
from dagbump.command_line.postponed import Postponed
from dagbump.wording import describe_session

if TYPE_CHECKING:
    import sqlalchemy as sa

    from dagbump import database
else:
    database = Postponed("dagbump.database")

# The two halves of the lock's key, "dagb" and "ump" in ASCII. An advisory lock belongs to one database.
_CLASS, _OBJECT = 0x64616762, 0x756D70

_TRY = f"SELECT pg_catalog.pg_try_advisory_xact_lock({_CLASS}, {_OBJECT})"
_HOLDER = f"""
    SELECT activity.pid, activity.usename::text, activity.application_name, pg_catalog.host(activity.client_addr)
    FROM pg_catalog.pg_locks AS lock
    JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = lock.pid
    JOIN pg_catalog.pg_database AS database ON database.oid = lock.database
    WHERE lock.locktype = 'advisory' AND lock.granted AND database.datname = pg_catalog.current_database()
    AND lock.classid = {_CLASS} AND lock.objid = {_OBJECT} AND lock.objsubid = 2
"""  # noqa: S608  (constants)


class ActiveCopy:
    """One copy's part in the choice of the active copy."""

    def __init__(self, connect: Callable[[], sa.engine.Connection], silence: float, deadline: Deadline) -> None:
        """Connect to nothing yet.

        Args:
            connect: makes a new connection, with the current credentials.
            silence: after so many seconds without a call of `other`, the server releases the lock; 0: never.
            deadline: limits how long a call of `other` waits for the server.
        """
        self._connect = connect
        self._silence = silence
        self._deadline = deadline
        self._connection: sa.engine.Connection | None = None
        self._is_this_one = False

    def other(self) -> str | None:
        """Return None if this copy is the active one; else describe the session of the copy that is.

        Raises:
            DagbumpError, DBAPIError: the connection cannot be made, or is lost. Then this copy is not the active one.
        """
        try:
            return self._other()
        except BaseException:
            self.give_up()  # also after an error that keeps the connection, because it has ended the transaction
            raise

    def _other(self) -> str | None:
        if self._connection is None:
            # With a higher isolation level, the open transaction would keep its first snapshot.
            self._connection = self._connect().execution_options(isolation_level="READ COMMITTED")
        with self._deadline.on(self._connection):
            return self._ask(self._connection)

    def _ask(self, connection: sa.engine.Connection) -> str | None:
        if self._is_this_one:
            connection.exec_driver_sql("SELECT 1")  # raises if the connection, and so the lock, is lost
            return None
        transaction = connection.begin()
        timeouts.replace(connection, silence=self._silence)
        self._is_this_one = bool(connection.exec_driver_sql(_TRY).scalar_one())
        if self._is_this_one:
            return None
        holder = connection.exec_driver_sql(_HOLDER).one_or_none()
        transaction.rollback()  # gives the server connection back to a pooler
        return describe_session(*holder) if holder else "another session, which has just ended"

    def give_up(self) -> None:
        """Close the connection, which releases the lock."""
        connection, self._connection, self._is_this_one = self._connection, None, False
        if connection is not None:
            database.drop(connection)
