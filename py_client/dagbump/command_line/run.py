"""``dagbump run``: its start, its output and its end."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from dagbump.command_line.connecting import engine_for, usable_connection
from dagbump.command_line.exit_codes import exit_codes
from dagbump.command_line.options import OfAirflow, TrustOwner, Url, seconds
from dagbump.command_line.output import as_json, flush, note, printing, sentence
from dagbump.command_line.periodic_bump import PeriodicBump
from dagbump.command_line.postponed import Postponed
from dagbump.command_line.signals import stopping_with
from dagbump.errors import DagbumpError, summary
from dagbump.results import BumpResult, RunBump
from dagbump.wording import one_line

if TYPE_CHECKING:
    import sqlalchemy as sa

    from dagbump import database
else:
    database = Postponed("dagbump.database")


def run(
    url: Url = None,
    airflow_schema: OfAirflow = None,
    trust_owner: TrustOwner = False,
    interval: Annotated[
        float,
        typer.Option(
            "--interval",
            metavar="SECONDS",
            callback=seconds,
            help="The pause between two bumps, from 0.1 seconds to a day.",
        ),
    ] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Bump once per interval, beside a stock scheduler, until SIGTERM or Ctrl-C.

    Each bump is the safe form, in a transaction of its own. The command prints a line for each bump that changed
    something. It also prints a line when other runs than before are locked or left to Airflow. After a temporary error
    (a lost connection, a lock, a timeout, a migration) it tries again, with growing pauses. It reads the credentials
    anew for each connection. If the server refuses them for 5 minutes, the command ends with exit code 3; if they
    cannot be read for that long, with exit code 2.
    """

    def prepare() -> None:
        # An error that does not pass ends the command here, before the loop.
        with usable_connection(url, airflow_schema, trust_owner=trust_owner) as (connection, _):
            where = database.describe(connection.engine)
        note(f"dagbump run: one safe bump every {interval:g} s in {where}. Ctrl-C ends it.")

    def connect() -> sa.engine.Connection:
        return database.connect(engine_for(url, trust_owner=trust_owner), airflow_schema)

    with exit_codes(), printing(committed=True):
        bumping = PeriodicBump(prepare, connect, interval, _Report(as_json=as_json))
        with stopping_with(bumping.stop):
            bumping.run()
            note("dagbump run: ended.")
            flush()
            os._exit(0)  # a normal exit takes part of the promised second, and more if a thread hangs in a driver


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

    def result(self, result: BumpResult) -> None:
        # A run that waits for Airflow or for a lock is in every result. Print it only when it is new.
        waiting = [row for row in result.runs if row.locked or row.needs_verify]
        before, self._seen = self._seen, [(row.dag_run_id, row.dag_version_id, row.locked) for row in waiting]
        if not result.bumped and (not waiting or self._seen == before):
            return
        if self._as_json:
            line = json.dumps(asdict(Line(_now(), result.runs)), default=as_json)
        else:
            line = f"{_now().isoformat()} {sentence(result)}"
        try:
            print(line, flush=True)
        except BrokenPipeError:
            raise  # the reader has closed the pipe
        except OSError as error:  # for example, a full disk must not stop the work
            note(f"{_now().isoformat()} dagbump run: a line cannot be printed: {error.strerror}")

    def trouble(self, error: BaseException) -> None:
        told = one_line(str(error)) if isinstance(error, DagbumpError) else summary(error)
        if told not in self._troubles:
            self._troubles.add(told)
            note(f"{_now().isoformat()} dagbump run: {told}; trying again, with growing pauses")

    def recovered(self) -> None:
        self._troubles.clear()
        note(f"{_now().isoformat()} dagbump run: connected again, and bumping")


def _now() -> datetime:
    return datetime.now().astimezone().replace(microsecond=0)
