"""Ends the wait for a server that hangs.

The server's own timeouts cannot end it, because a process that is stopped, or waits for its disk, counts no time. TCP
does not notice it either: the kernel goes on answering. A driver waits in C, where another thread cannot interrupt it.
But another thread can shut the socket down. Then the driver finds the connection lost.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import sqlalchemy as sa

# The server ends a statement itself at its statement_timeout. After so many seconds more, it hangs.
_GRACE_SECONDS = 5.0


_Result = TypeVar("_Result")


class Deadline:
    """Limits how long one thread waits for the server; another thread calls `enforce` often."""

    def __init__(self, statement_timeout: float) -> None:
        """Limit nothing yet.

        Args:
            statement_timeout: seconds that a statement takes at most; 0: without a limit, also here.
        """
        self._seconds = statement_timeout + _GRACE_SECONDS if statement_timeout else float("inf")
        self._lock = threading.Lock()
        self._driver_connection: Any = None
        self._ends_at = float("inf")

    @contextmanager
    def on(self, connection: sa.engine.Connection) -> Iterator[None]:
        """Limit the time of what is done with the connection in this block."""
        self._watch(connection.connection.driver_connection)
        with self._until_the_end():
            yield

    def connecting(self, connect: Callable[[Callable[[Any], None]], _Result]) -> _Result:
        """Make a connection, and limit the time of its first queries.

        Args:
            connect: makes the connection, and calls its argument with the driver's connection as soon as that is open.
                Until then, libpq's connect_timeout limits the time. What it does after that is limited too.
        """
        with self._until_the_end():
            return connect(self._watch)

    def _watch(self, driver_connection: Any) -> None:
        with self._lock:
            self._driver_connection, self._ends_at = driver_connection, time.monotonic() + self._seconds

    @contextmanager
    def _until_the_end(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._lock:
                self._driver_connection, self._ends_at = None, float("inf")

    def enforce(self) -> None:
        """Shut the connection's socket down if its time is over."""
        with self._lock:
            if time.monotonic() < self._ends_at:
                return
            self._ends_at = float("inf")
            # The driver may have closed the connection at this moment.
            with suppress(Exception), socket.socket(fileno=os.dup(self._driver_connection.fileno())) as shared:
                shared.shutdown(socket.SHUT_RDWR)
