"""``dagbump run``: one safe bump per interval, beside a stock scheduler, for as long as it takes.

The work happens in a thread, so that a signal ends the loop at once, whatever the driver is waiting for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
import tenacity

from dagbump import database
from dagbump.client import bump
from dagbump.errors import Unreachable
from dagbump.results import BumpResult

# Together below the second within which the loop promises to end.
_CANCEL_AFTER_SECONDS = 0.1
_LEAVE_AFTER_SECONDS = 0.3


class BumpLoop:
    """Calls ``dagbump.bump`` in its safe form, each time in a transaction of its own, until `stop`."""

    def __init__(
        self,
        engine: sa.engine.Engine,
        interval: float,
        on_result: Callable[[BumpResult], None],
        on_outage: Callable[[BaseException, float], None],
    ) -> None:
        """Prepare the loop; nothing is connected yet.

        Args:
            engine: the database, from `database.create_engine`.
            interval: seconds between two calls.
            on_result: takes the result of every call.
            on_outage: takes the error, and the seconds until the next try, whenever the database is lost.
        """
        self._engine = engine
        self._interval = interval
        self._on_result = on_result
        self._on_outage = on_outage
        self._stopping = threading.Event()
        self._connection: sa.engine.Connection | None = None
        self._failure: BaseException | None = None

    def stop(self) -> None:
        """Make `run` return within a second; may be called from a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Loop until `stop`. A bump that is under way then is cancelled by the server and rolled back.

        A database that is lost, or not there yet, is waited for.

        Raises:
            DagbumpError: dagbump is not installed, or not usable.
        """
        worker = threading.Thread(target=self._work, name="dagbump-loop", daemon=True)
        worker.start()
        while worker.is_alive() and not self._stopping.wait(0.1):
            pass
        worker.join(_CANCEL_AFTER_SECONDS)
        if worker.is_alive():
            self._cancel()
            worker.join(_LEAVE_AFTER_SECONDS)
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                self._bump_until_outage()
        except BaseException as error:  # noqa: BLE001  (raised again in run)
            if not self._stopping.is_set():
                self._failure = error

    def _bump_until_outage(self) -> None:
        reconnecting = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Unreachable),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=30),
            stop=tenacity.stop_when_event_set(self._stopping),
            sleep=tenacity.sleep_using_event(self._stopping),
            before_sleep=self._report_unreachable,
            reraise=True,
        )
        try:
            with reconnecting(database.connect, self._engine) as self._connection:
                while not self._stopping.is_set():
                    with self._connection.begin():
                        result = bump(self._connection)
                    self._on_result(result)
                    self._stopping.wait(self._interval)
        except sa.exc.DBAPIError as error:
            if not database.is_outage(error):
                raise
            self._on_outage(error, self._interval)
            self._stopping.wait(self._interval)
        finally:
            self._connection = None

    def _report_unreachable(self, state: tenacity.RetryCallState) -> None:
        assert state.outcome is not None  # noqa: S101  (for the type checker: before_sleep has one)
        error = state.outcome.exception()
        if error is not None and state.next_action is not None:
            self._on_outage(error, state.next_action.sleep)

    def _cancel(self) -> None:
        connection = self._connection
        with suppress(Exception):  # it may have gone at this moment
            driver_connection: Any = connection.connection.driver_connection  # type: ignore[union-attr]
            driver_connection.cancel()
