"""The loop of ``dagbump run``: one safe bump per interval, beside a stock scheduler.

The bumps run in a thread of their own, so that a signal ends the loop at once even while the driver waits.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from dagbump.command_line.postponed import Postponed
from dagbump.errors import InvalidUrl, NotInstalled, UnsupportedAirflow, VersionMismatch
from dagbump.results import BumpResult

if TYPE_CHECKING:
    import sqlalchemy as sa
    import tenacity

    from dagbump import client, database
else:
    client = Postponed("dagbump.client")
    database = Postponed("dagbump.database")
    sa = Postponed("sqlalchemy")
    tenacity = Postponed("tenacity")

# Together these are less than the second within which `dagbump run` promises to end.
_LOOK_SECONDS = 0.05
_CANCEL_AFTER_SECONDS = 0.05
_LEAVE_AFTER_SECONDS = 0.2

# A rotated password reaches its clients within minutes. If it takes longer, a person has to help.
REFUSED_FOR_SECONDS = 300.0


class Reporter(Protocol):
    """Receives the results and errors of the bumps."""

    def result(self, result: BumpResult) -> None:
        """Receive the result of a bump that succeeded."""

    def trouble(self, error: BaseException) -> None:
        """Receive the error of a bump that failed and will be tried again."""

    def recovered(self) -> None:
        """Learn that a bump succeeded after errors."""


class PeriodicBump:
    """Calls ``dagbump.bump`` in its safe form, each time in a transaction of its own, until `stop`."""

    def __init__(
        self,
        prepare: Callable[[], None],
        connect: Callable[[], sa.engine.Connection],
        interval: float,
        reporter: Reporter,
        patience: float = REFUSED_FOR_SECONDS,
    ) -> None:
        """Set up the loop without connecting to the database.

        Args:
            prepare: is called once, at the start, to look at the database. An error in it ends the loop.
            connect: makes each new connection, with the current credentials.
            interval: seconds between two bumps.
            reporter: receives results and errors.
            patience: for how many seconds the loop tries again while the server refuses the credentials, or they cannot
                be read.
        """
        self._prepare = prepare
        self._connect = connect
        self._interval = interval
        self._reporter = reporter
        self._patience = patience
        self._refused_since: float | None = None
        self._asked_to_stop = False  # not an Event, because a signal handler sets it and must take no lock
        self._stopping = threading.Event()
        self._connection: sa.engine.Connection | None = None
        self._has_worked = False
        self._failure: BaseException | None = None

    def stop(self) -> None:
        """Make `run` return within a second; a signal handler may call this."""
        self._asked_to_stop = True

    def run(self) -> None:
        """Bump until `stop` is called; then the server cancels the current bump and rolls it back.

        If the server hangs, the thread stays behind and ends with the process.

        After a temporary error (a lost connection, a lock, a timeout) the loop tries again, with growing pauses. Once a
        bump has succeeded, it also tries again if functions or tables are missing, because a restore or a migration may
        be running. It does so for some time if the credentials are refused or cannot be read, because somebody may be
        rotating them.

        Raises:
            DagbumpError: the database cannot be reached at the start, or has refused the credentials for too long, or
                dagbump is not installed or not usable.
        """
        worker = threading.Thread(target=self._work, name="dagbump-run", daemon=True)
        worker.start()
        while worker.is_alive() and not self._asked_to_stop:
            worker.join(_LOOK_SECONDS)
        self._stopping.set()
        worker.join(_CANCEL_AFTER_SECONDS)
        if worker.is_alive():
            self._cancel()
            worker.join(_LEAVE_AFTER_SECONDS)
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            self._prepare()
            until_it_works = tenacity.Retrying(
                retry=tenacity.retry_if_exception(self._may_pass),
                wait=tenacity.wait_random_exponential(multiplier=0.5, max=30),
                stop=tenacity.stop_when_event_set(self._stopping),
                sleep=tenacity.sleep_using_event(self._stopping),
                before_sleep=self._report_trouble,
                reraise=True,
            )
            while not self._stopping.is_set():
                result = until_it_works(self._bump)
                if until_it_works.statistics["attempt_number"] > 1:
                    self._reporter.recovered()
                self._reporter.result(result)
                self._stopping.wait(self._interval)
        except BaseException as error:  # noqa: BLE001  (raised again in run)
            if not self._stopping.is_set():
                self._failure = error
        finally:
            self._disconnect()

    def _bump(self) -> BumpResult:
        try:
            if self._connection is None:
                self._connection = self._connect()
                self._refused_since = None
            with self._connection.begin():
                result = client.bump(self._connection, caller="dagbump run")
        except BaseException:
            self._disconnect()
            raise
        self._has_worked = True
        return result

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sa.exc.SQLAlchemyError):
                connection.invalidate()  # close without a ROLLBACK, because a server in trouble may not answer it
                connection.close()

    def _may_pass(self, error: BaseException) -> bool:
        if isinstance(error, NotInstalled | VersionMismatch | UnsupportedAirflow):
            return self._has_worked
        if database.refuses_credentials(error) or (isinstance(error, InvalidUrl) and self._has_worked):
            now = time.monotonic()
            self._refused_since = self._refused_since or now
            return now - self._refused_since < self._patience
        return database.may_pass(error)

    def _report_trouble(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if error is not None:
            self._reporter.trouble(error)

    def _cancel(self) -> None:
        """Ask the server to cancel the current statement; a forked process sends the request.

        The request waits while the server hangs, and most drivers block the whole process during that time.
        """
        connection = self._connection
        if connection is not None and os.fork() == 0:
            try:
                os.closerange(0, 3)  # so that a reader of the output of `dagbump run` does not wait for this process
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_REAL, 1.0)  # ends the process
                driver_connection: Any = connection.connection.driver_connection
                driver_connection.cancel()
            finally:
                os._exit(0)
