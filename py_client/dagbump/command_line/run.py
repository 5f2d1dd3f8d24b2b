"""``dagbump run``: its start, its output and its end."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dagbump.command_line.connecting import engine_for, usable_connection
from dagbump.command_line.exit_codes import exit_codes
from dagbump.command_line.options import OfAirflow, TrustOwner, Url, integer, interval, timeout
from dagbump.command_line.output import as_json, flush, note, notes_as_json, now, sentence, visible
from dagbump.command_line.periodic_bump import Pace, PeriodicBump, Reporter
from dagbump.command_line.postponed import Postponed
from dagbump.command_line.signals import stopping_with
from dagbump.errors import DagbumpError, summary, translated
from dagbump.results import BumpResult, RunBump
from dagbump.wording import one_line

if TYPE_CHECKING:
    import sqlalchemy as sa

    from dagbump import client, database
    from dagbump.command_line import metrics
    from dagbump.installation import state
else:
    client = Postponed("dagbump.client")
    database = Postponed("dagbump.database")
    metrics = Postponed("dagbump.command_line.metrics")
    state = Postponed("dagbump.installation.state")

_LAST_PORT = 65_535
_FAREWELL_SECONDS = 0.2


def run(
    url: Url = None,
    airflow_schema: OfAirflow = None,
    trust_owner: TrustOwner = False,
    interval: Annotated[
        float,
        typer.Option(
            "--interval",
            metavar="SECONDS",
            callback=interval,
            help="The pause between two bumps, from 0.1 seconds to a day.",
        ),
    ] = Pace.interval,
    lock_timeout: Annotated[
        float,
        typer.Option(
            "--lock-timeout",
            metavar="SECONDS",
            callback=timeout,
            help="How long a bump waits for a table, which a migration may have locked; 0: without a limit. "
            "A bump never waits for a row.",
        ),
    ] = Pace.lock_timeout,
    statement_timeout: Annotated[
        float,
        typer.Option(
            "--statement-timeout",
            metavar="SECONDS",
            callback=timeout,
            help="How long a bump may take; 0: without a limit. Both timeouts replace those of the role.",
        ),
    ] = Pace.statement_timeout,
    all_active: Annotated[
        bool,
        typer.Option(
            "--all-active",
            help="Bump although another copy of this command bumps in the same database. Without it, one copy is "
            "active and the others stand by.",
        ),
    ] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            metavar="PORT",
            callback=integer(_LAST_PORT),
            help="Serve Prometheus metrics at /metrics, and /healthz and /readyz; 0: at any free port. "
            "Needs pip install 'dagbump[metrics]'.",
        ),
    ] = None,
    metrics_address: Annotated[
        str,
        typer.Option(
            "--metrics-address", metavar="ADDRESS", help="The address to serve them at. They have no password."
        ),
    ] = "0.0.0.0",  # noqa: S104  (as Prometheus exporters do; the guide says how to narrow it)
    log_format: Annotated[
        Literal["text", "json"],
        typer.Option("--log-format", help="Print messages on standard error as text, or as one JSON object per line."),
    ] = "text",
    as_json: Annotated[bool, typer.Option("--json", help="Print results as one JSON object per line.")] = False,
) -> None:
    """Bump once per interval, beside a stock scheduler, until SIGTERM or Ctrl-C.

    Each bump is the safe form, in a transaction of its own. The command prints a line for each bump that moved
    something. It also prints a line when the runs that are locked or left to Airflow are not the same as before. After
    a temporary error (a lost connection, a lock, a timeout, a migration) it tries again, with growing pauses. It reads
    the credentials anew for each connection. If the server refuses them for 5 minutes, the command ends with exit code
    3; if they cannot be read for that long, with exit code 2.

    Of several copies, one is active. Another one takes over when that one ends or loses its connection.
    """
    if log_format == "json":
        notes_as_json()

    def prepare(opened: Callable[[Any], None]) -> None:
        # An error that does not pass ends the command here, before the loop.
        with usable_connection(url, airflow_schema, trust_owner=trust_owner, opened=opened) as (connection, _):
            where = database.describe(connection.engine)
        note(f"dagbump run: one safe bump every {interval:g} s in {where}. Ctrl-C ends it.")

    def connect(opened: Callable[[Any], None]) -> sa.engine.Connection:
        return database.connect(engine_for(url, trust_owner=trust_owner, opened=opened), airflow_schema)

    with exit_codes():
        report = _Report(as_json=as_json)
        served = None if metrics_port is None else _serve(report, interval, metrics_address, metrics_port)

        def preview(connection: sa.engine.Connection, served: metrics.Metrics) -> None:
            with translated():
                installed = state.require_usable(connection, airflow_schema)
            served.previewed(installed.revision, client.preview(connection))

        bumping = PeriodicBump(
            prepare,
            connect,
            Pace(interval, lock_timeout, statement_timeout),
            served or report,
            preview=partial(preview, served=served) if served else None,
            all_active=all_active,
        )
        with stopping_with(bumping.stop):
            bumping.run()
            # A pipe may be full, and nobody may read it.
            farewell = threading.Thread(target=_say_farewell, daemon=True)
            farewell.start()
            farewell.join(_FAREWELL_SECONDS)
            os._exit(0)  # a normal exit takes part of the promised second, and more if a thread hangs in a driver


def _say_farewell() -> None:
    note("dagbump run: ended.")
    flush()


def _serve(report: Reporter, interval: float, address: str, port: int) -> metrics.Metrics:
    """Serve metrics about what the reporter is told."""
    # prometheus-client would write files into this directory, for programs of several processes.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    try:
        measured = metrics.Metrics(report, interval)
    except ModuleNotFoundError:
        raise DagbumpError("--metrics-port needs prometheus-client: pip install 'dagbump[metrics]'") from None
    try:
        port = metrics.serve(measured, address, port)
    except OSError as error:
        raise DagbumpError(f"metrics cannot be served at {address}, port {port}: {error.strerror}") from None
    host = f"[{address}]" if ":" in address else address
    note(f"dagbump run: metrics at http://{host}:{port}/metrics")
    return measured


@dataclass(frozen=True)
class Line:
    """A line of ``dagbump run --json``.

    Attributes:
        at: when the bump ended, from this machine's clock.
        runs: the rows of the bump.
    """

    at: datetime
    runs: tuple[RunBump, ...]


class _Report:
    """Prints what is new in the loop of `dagbump run`, once, with the time."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._seen: list[object] = []
        self._troubles: set[str] = set()
        self._other: str | None = None
        self._has_worked = False

    def result(self, result: BumpResult, seconds: float) -> None:  # noqa: ARG002  (for the metrics)
        self._works()
        if self._other is not None:
            self._other = None
            _log("this copy is the active one now")
        # A run that waits for Airflow or for a lock is in every result. Print it only when it is new.
        waiting = [row for row in result.runs if row.locked or row.needs_verify]
        before, self._seen = self._seen, [(row.dag_run_id, row.dag_version_id, row.locked) for row in waiting]
        if not result.bumped and (not waiting or self._seen == before):
            return
        if self._as_json:
            line = json.dumps(asdict(Line(now(), result.runs)), default=as_json)
        else:
            line = f"{now().isoformat()} {sentence(result)}"
        try:
            print(line, flush=True)
        except BrokenPipeError:
            raise  # the reader has closed the pipe
        except OSError as error:  # for example, a full disk must not stop the work
            _log(f"a line cannot be printed: {error.strerror}")

    def stands_by(self, other: str) -> None:
        self._works()
        if other != self._other:
            self._other = other
            _log(f"standing by, because another copy is active: {other}")

    def trouble(self, error: BaseException) -> None:
        told = _told(error)
        if told not in self._troubles:
            self._troubles.add(told)
            _log(f"{told}; trying again, with growing pauses")

    def preview_failed(self, error: BaseException) -> None:
        told = f"no preview for the metrics: {_told(error)}"
        if told not in self._troubles:
            self._troubles.add(told)
            _log(f"{told}; trying again in a minute")

    def recovered(self) -> None:
        self._troubles.clear()
        _log(f"connected again, and {'bumping' if self._other is None else 'standing by'}")

    def _works(self) -> None:
        if not self._has_worked:
            self._has_worked = True
            _tell_systemd("READY=1")


def _told(error: BaseException) -> str:
    return one_line(str(error)) if isinstance(error, DagbumpError) else summary(error)


def _log(message: str) -> None:
    note(f"dagbump run: {message}", timed=True)
    _tell_systemd(f"STATUS={visible(message)}")  # the line of `systemctl status`


def _tell_systemd(state: str) -> None:
    """Send a state to systemd, if it has started this process as a service of Type=notify (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.sendto(state.encode(), f"\0{address[1:]}" if address.startswith("@") else address)
