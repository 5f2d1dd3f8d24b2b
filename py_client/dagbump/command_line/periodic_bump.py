"""``dagbump run``: one safe bump per interval, beside a stock scheduler, for as long as it takes.

The work happens in a thread, so that a signal ends it at once, whatever the driver is waiting for.
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

# Together below the second within which `dagbump run` promises to end.
_LOOK_SECONDS = 0.05
_CANCEL_AFTER_SECONDS = 0.05
_LEAVE_AFTER_SECONDS = 0.2

# A rotated password reaches its users within minutes; an account that is locked out needs a person.
REFUSED_FOR_SECONDS = 300.0


class Reporter(Protocol):
    """Who is told what becomes of the bumps."""

    def result(self, result: BumpResult) -> None:
        """Take the answer of every bump that worked."""

    def trouble(self, error: BaseException) -> None:
        """Take the error of every try that failed and is followed by another."""

    def recovered(self) -> None:
        """Take notice that a bump worked after trouble."""


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
        """Prepare; nothing is connected yet.

        Args:
            prepare: called once, at the start, to look at the database. What it raises ends the work.
            connect: makes each new connection, with the credentials of that moment.
            interval: seconds between two calls.
            reporter: is told what happens.
            patience: for so many seconds of refused credentials, new ones are waited for.
        """
        self._prepare = prepare
        self._connect = connect
        self._interval = interval
        self._reporter = reporter
        self._patience = patience
        self._refused_since: float | None = None
        self._asked_to_stop = False  # no lock in it: a signal handler sets it
        self._stopping = threading.Event()
        self._connection: sa.engine.Connection | None = None
        self._has_worked = False
        self._failure: BaseException | None = None

    def stop(self) -> None:
        """Make `run` return within a second; may be called from a signal handler."""
        self._asked_to_stop = True

    def run(self) -> None:
        """Bump until `stop`. A bump that is under way then is cancelled by the server and rolled back.

        Where the server hangs, a thread is left behind that ends with the process.

        What may pass is waited for, with growing pauses: a lost database, a lock, a timeout. Once a bump has worked,
        so are missing functions and tables, because a restore or a migration may be under way, and refused
        credentials, for a time, because they may have been rotated.

        Raises:
            DagbumpError: the database cannot be reached at the start, or has refused the credentials for too long;
                dagbump is not installed, or not usable.
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
                connection.invalidate()  # no ROLLBACK, which a server in trouble may not answer
                connection.close()

    def _may_pass(self, error: BaseException) -> bool:
        if isinstance(error, InvalidUrl | NotInstalled | VersionMismatch | UnsupportedAirflow):
            return self._has_worked
        if database.refuses_credentials(error):
            now = time.monotonic()
            self._refused_since = self._refused_since or now
            return now - self._refused_since < self._patience
        return database.may_pass(error)

    def _report_trouble(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if error is not None:
            self._reporter.trouble(error)

    def _cancel(self) -> None:
        """Ask the server to cancel what it does, from a process of its own.

        The request waits for as long as the server hangs, and most drivers keep the whole process waiting with it.
        """
        connection = self._connection
        if connection is not None and os.fork() == 0:
            try:
                os.closerange(0, 3)  # who reads the output of `dagbump run` is not kept waiting
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_REAL, 1.0)  # ends the process
                driver_connection: Any = connection.connection.driver_connection
                driver_connection.cancel()
            finally:
                os._exit(0)
