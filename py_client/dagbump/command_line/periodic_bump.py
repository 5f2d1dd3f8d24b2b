"""The loop of ``dagbump run``: one safe bump per interval, beside a stock scheduler.

The bumps run in a thread of their own, so that a signal ends the loop at once even while the driver waits.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from dagbump.command_line import timeouts
from dagbump.command_line.active_copy import ActiveCopy
from dagbump.command_line.deadline import Deadline
from dagbump.command_line.postponed import Postponed
from dagbump.errors import (
    DagbumpError,
    InsufficientPrivilege,
    InvalidUrl,
    NotInstalled,
    UnsupportedAirflow,
    VersionMismatch,
    sqlstate,
    summary,
)
from dagbump.results import BumpResult
from dagbump.wording import describe_session

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
_LONGEST_PAUSE_SECONDS = 30.0
# A preview reads all running runs and their DAGs, so it is not made after each bump.
_PREVIEW_SECONDS = 60.0

# A session that keeps a bump from writing one of the tables, in a lock mode that conflicts with ROW EXCLUSIVE.
_TABLE_LOCKS = """
    SELECT lock.relation::pg_catalog.regclass::text, activity.pid, activity.usename::text, activity.application_name,
           pg_catalog.host(activity.client_addr)
    FROM pg_catalog.pg_locks AS lock
    JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = lock.pid
    JOIN pg_catalog.pg_class AS class ON class.oid = lock.relation
    JOIN pg_catalog.pg_database AS database ON database.oid = lock.database
    WHERE lock.granted AND database.datname = pg_catalog.current_database() AND class.relkind = 'r'
    AND lock.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    AND class.relname IN ('task_instance', 'task_instance_history', 'dag_run', 'dag', 'dag_version', 'serialized_dag')
    ORDER BY activity.xact_start
    LIMIT 1
"""
_LOCK_TIMEOUT = "55P03"
_IDLE_SESSION_TIMEOUT = "57P05"


class Reporter(Protocol):
    """Receives the results and errors of the bumps."""

    def result(self, result: BumpResult, seconds: float) -> None:
        """Receive the result of a bump that succeeded, and how long it took."""

    def stands_by(self, other: str) -> None:
        """Learn that this copy does not bump, because another copy is active; `other` describes its session."""

    def trouble(self, error: BaseException) -> None:
        """Receive the error of a bump that failed and will be tried again."""

    def preview_failed(self, error: BaseException) -> None:
        """Receive the error of a preview that failed and will be tried again, while the bumps go on."""

    def recovered(self) -> None:
        """Learn that a bump succeeded, or another copy was found active, after errors."""


class TableLocked(DagbumpError):  # noqa: N818  (as in `dagbump.errors`)
    """A bump waited for a table longer than its lock_timeout; the message says who has locked it."""


@dataclass(frozen=True)
class Pace:
    """How often and how long `PeriodicBump` works.

    Attributes:
        interval: seconds between two bumps.
        lock_timeout: seconds that a bump waits for the lock on a table; 0: without a limit.
        statement_timeout: seconds that a bump takes at most; 0: without a limit.
        patience: for how many seconds the loop tries again while the server refuses the credentials, or they cannot be
            read.
    """

    interval: float = 1.0
    lock_timeout: float = 5.0
    statement_timeout: float = 60.0
    patience: float = REFUSED_FOR_SECONDS

    @property
    def silence(self) -> float:
        """Seconds for which the session of the active copy may be idle before the server ends it; 0: no limit."""
        return self.interval + self.statement_timeout + _LONGEST_PAUSE_SECONDS if self.statement_timeout else 0


class PeriodicBump:
    """Calls ``dagbump.bump`` in its safe form, each time in a transaction of its own, until `stop`."""

    def __init__(
        self,
        prepare: Callable[[Callable[[Any], None]], None],
        connect: Callable[[Callable[[Any], None]], sa.engine.Connection],
        pace: Pace,
        reporter: Reporter,
        *,
        preview: Callable[[sa.engine.Connection], None] | None = None,
        all_active: bool = False,
    ) -> None:
        """Set up the loop without connecting to the database.

        Args:
            prepare: is called once, at the start, to look at the database. An error in it ends the loop. It calls its
                argument with the driver's connection as soon as that is open.
            connect: makes each new connection, with the current credentials, and does the same.
            pace: how often and how long.
            reporter: receives results and errors.
            preview: is called after a bump, once a minute, in a transaction of its own.
            all_active: bump although another copy of the command bumps in this database.
        """
        self._prepare = prepare
        self._pace = pace
        self._reporter = reporter
        self._preview = preview
        self._previewed_at = float("-inf")
        self._deadline = Deadline(pace.statement_timeout)
        self._connect = partial(self._deadline.connecting, connect)
        self._active_copy = None if all_active else ActiveCopy(self._connect, pace.silence, self._deadline)
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

        If the server hangs at the end, the thread stays behind and ends with the process.

        After a temporary error (a lost connection, a lock, a timeout) the loop tries again, with growing pauses. Once a
        bump has succeeded, it also tries again if functions, tables or rights are missing, because a migration may be
        running, or a restore, which grants rights at its end. It does so for some time if the credentials are refused
        or cannot be read, because somebody may be rotating them.

        Raises:
            DagbumpError: the database cannot be reached at the start, or has refused the credentials for too long, or
                dagbump is not installed or not usable.
        """
        worker = threading.Thread(target=self._work, name="dagbump-run", daemon=True)
        worker.start()
        while worker.is_alive() and not self._asked_to_stop:
            worker.join(_LOOK_SECONDS)
            self._deadline.enforce()
        self._stopping.set()
        worker.join(_CANCEL_AFTER_SECONDS)
        if worker.is_alive():
            self._cancel()
            worker.join(_LEAVE_AFTER_SECONDS)
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            self._deadline.connecting(self._prepare)
            until_it_works = tenacity.Retrying(
                retry=tenacity.retry_if_exception(self._may_pass),
                wait=tenacity.wait_random_exponential(multiplier=0.5, max=_LONGEST_PAUSE_SECONDS),
                stop=tenacity.stop_when_event_set(self._stopping),
                sleep=tenacity.sleep_using_event(self._stopping),
                before_sleep=self._report_trouble,
                reraise=True,
            )
            while not self._stopping.is_set():
                until_it_works(self._turn_with_fresh_connection)
                if until_it_works.statistics["attempt_number"] > 1:
                    self._reporter.recovered()
                self._preview_if_due()
                self._stopping.wait(self._pace.interval)
        except BaseException as error:  # noqa: BLE001  (raised again in run)
            if not self._stopping.is_set():
                self._failure = error
        finally:
            self._disconnect()
            self._give_up()

    def _turn_with_fresh_connection(self) -> None:
        """Take a turn. If the role's idle_session_timeout has ended a connection since the last one, make it anew."""
        try:
            self._turn()
        except sa.exc.DBAPIError as error:
            if sqlstate(error) != _IDLE_SESSION_TIMEOUT:
                raise
            self._turn()

    def _turn(self) -> None:
        """Bump, or stand by while another copy is the active one."""
        try:
            other = self._active_copy.other() if self._active_copy is not None else None
            if other is None:
                self._bump()
            else:
                self._reporter.stands_by(other)
        except BaseException as error:
            locked_by = self._who_has_locked_a_table() if sqlstate(error) == _LOCK_TIMEOUT else None
            self._disconnect()
            if not _concerns_all_copies(error):
                self._give_up()
            if locked_by is not None:
                raise TableLocked(f"{summary(error)}: {locked_by}") from error
            raise
        self._has_worked = True
        self._refused_since = None

    def _bump(self) -> None:
        if self._connection is None:
            self._connection = self._connect()
        began = time.perf_counter()
        with self._transaction(self._connection):
            result = client.bump(self._connection, caller="dagbump run")
        self._reporter.result(result, time.perf_counter() - began)

    @contextmanager
    def _transaction(self, connection: sa.engine.Connection) -> Iterator[None]:
        """Open a transaction with this command's own timeouts, whatever those of the role or the database are."""
        with self._deadline.on(connection), connection.begin():
            timeouts.replace(connection, lock=self._pace.lock_timeout, statement=self._pace.statement_timeout)
            yield

    def _preview_if_due(self) -> None:
        """Make the preview; an error in it is reported, and the next bump is made all the same."""
        if self._preview is None or self._connection is None:
            return
        if time.monotonic() - self._previewed_at < _PREVIEW_SECONDS:
            return
        self._previewed_at = time.monotonic()
        try:
            with self._transaction(self._connection):
                self._preview(self._connection)
        except Exception as error:  # noqa: BLE001  (whatever it is, it concerns only the metrics)
            self._disconnect()
            if not self._stopping.is_set():
                self._reporter.preview_failed(error)

    def _who_has_locked_a_table(self) -> str | None:
        """Describe the transaction for which a bump waited; None if it has ended, or cannot be found."""
        with suppress(sa.exc.SQLAlchemyError):
            if self._connection is not None:
                with self._transaction(self._connection):
                    found = self._connection.exec_driver_sql(_TABLE_LOCKS).one_or_none()
                if found is not None:
                    return f"table {found[0]} is locked by {describe_session(*found[1:])}"
        return None

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            database.drop(connection)

    def _give_up(self) -> None:
        """Let another copy be the active one."""
        if self._active_copy is not None:
            self._active_copy.give_up()

    def _may_pass(self, error: BaseException) -> bool:
        if isinstance(error, BrokenPipeError):  # nobody reads what the reporter prints
            return False
        # An OSError comes from this machine. For example, no more files can be opened.
        if isinstance(error, OSError | InsufficientPrivilege | NotInstalled | UnsupportedAirflow | VersionMismatch):
            return self._has_worked
        if database.refuses_credentials(error) or (isinstance(error, InvalidUrl) and self._has_worked):
            now = time.monotonic()
            self._refused_since = self._refused_since or now
            return now - self._refused_since < self._pace.patience
        self._refused_since = None
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


def _concerns_all_copies(error: BaseException) -> bool:
    """Return whether a bump of another copy would fail in the same way. Then this copy stays the active one.

    If a table is locked, copies that took turns would wait for it one after the other, without the growing pauses.
    """
    if not isinstance(error, sa.exc.DBAPIError):
        return False  # for example, another copy's package may fit the database
    return not error.connection_invalidated or sqlstate(error) == _IDLE_SESSION_TIMEOUT
