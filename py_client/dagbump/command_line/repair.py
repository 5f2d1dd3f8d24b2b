"""``dagbump repair`` moves all task instances that may be moved, in small transactions, on a live system."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from dagbump.command_line import filters
from dagbump.command_line.connecting import usable_connection
from dagbump.command_line.exit_codes import exit_codes
from dagbump.command_line.holders import oldest_holder
from dagbump.command_line.options import INTEGER, DagIds, Json, OfAirflow, TrustOwner, Url, Wide, integer
from dagbump.command_line.output import as_json as to_json
from dagbump.command_line.output import note, print_text, printing
from dagbump.command_line.postponed import Postponed
from dagbump.command_line.signals import stopping_with
from dagbump.command_line.tables import Column, of_verdict, print_table
from dagbump.errors import ExitCode
from dagbump.results import RepairableRun, RunPreview
from dagbump.verdicts import verdict_of
from dagbump.wording import counted

if TYPE_CHECKING:
    import sqlalchemy as sa

    from dagbump import client
    from dagbump.installation import state
else:
    client = Postponed("dagbump.client")
    state = Postponed("dagbump.installation.state")

# The largest number of runs in a batch, as in the procedure dagbump.repair. It keeps a batch short even if the runs
# have few task instances to move.
_RUNS_AT_ONCE = 100
_SECONDS_BETWEEN_LINES = 5.0

_LEFT = (
    Column("verdict", style=of_verdict),
    Column("dag_run_id", "id"),
    Column("dag_id"),
    Column("run_id"),
    Column("version_number", "latest"),
    Column("stale"),
    Column("versionless"),
)


def repair(
    url: Url = None,
    airflow_schema: OfAirflow = None,
    trust_owner: TrustOwner = False,
    dag_id: DagIds = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            callback=integer(INTEGER, smallest=1),
            metavar="N",
            help="Commit after at most N task instances.",
        ),
    ] = 300,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what there is to do; write nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wide: Wide = False,
    as_json: Json = False,
) -> None:
    """Move every stale task instance that may be moved, in small transactions, on a live system.

    It does what bump does, with a COMMIT after each batch. In a pinned run, task instances without a version get the
    version that the run was created with. It waits for no row lock. Ctrl-C ends it after the current batch; to
    continue, run the same command again. Several repairs at once share the work. At the end it lists the runs that it
    could not move, and why.
    """
    if not (dry_run or yes or sys.stdin.isatty()):
        note(
            "dagbump repair writes in many transactions. Add --yes to run it without a question, or --dry-run to look."
        )
        raise typer.Exit(ExitCode.WRONG_USAGE)
    with exit_codes(), usable_connection(url, airflow_schema, trust_owner=trust_owner) as (connection, installed):
        filters.look_up(connection, installed.airflow_schema, None, dag_id, None)
        if not dry_run:
            client.repair_batch(connection, [], batch_size)  # raises at once if nothing can be written here
        runs = client.repairable(connection, dag_id)
        connection.rollback()  # so that no transaction is open while a person thinks
        done = Done()
        if not dry_run and (to_do := _task_instances(runs)):
            if not yes:
                typer.confirm(f"Move {_to_do(runs)}, at most {batch_size:,} in a transaction?", abort=True, err=True)
            stop = Event()
            with _telling_how_far(to_do) as show, stopping_with(stop.set):
                _repair(connection, [run.dag_run_id for run in runs], batch_size, done, show, stop)
        left = client.preview(connection, None, dag_id)
        held = [row.dag_run_id for row in left if verdict_of(row.verdict).may_be_locked]
        holder = oldest_holder(connection, held) if held and not (dry_run or as_json) else ""
        connection.rollback()
    with printing(committed=not dry_run):
        if as_json:
            to_move = _task_instances(runs) if dry_run else None
            answer = Answer(done.task_instances, len(done.runs), done.interrupted, to_move, left)
            print(json.dumps(asdict(answer), indent=2, default=to_json))
        else:
            print(f"To move: {_to_do(runs)}." if dry_run else done.sentence())
            to_move_yet = {run.dag_run_id for run in runs if dry_run and not run.needs_verify}
            _print_what_is_left([row for row in left if row.dag_run_id not in to_move_yet], wide=wide)
            if holder:
                print_text(holder)
    if done.interrupted:
        raise typer.Exit(ExitCode.THE_WORK_FAILED)


@dataclass(frozen=True)
class Answer:
    """The answer of ``dagbump repair --json``.

    Attributes:
        moved: the number of task instances that were moved.
        runs: the number of runs of these task instances.
        interrupted: whether a signal ended the repair before its end.
        to_move: with ``--dry-run``, the number of task instances that a repair would move; else None.
        left: the runs that are not as they should be, after the repair.
    """

    moved: int
    runs: int
    interrupted: bool
    to_move: int | None
    left: tuple[RunPreview, ...]


@dataclass
class Done:
    """The progress of a repair."""

    task_instances: int = 0
    runs: set[int] = field(default_factory=set)
    interrupted: bool = False

    def sentence(self) -> str:
        """Return the progress as a sentence."""
        moved = f"{counted(self.task_instances, 'task instance')} moved in {counted(len(self.runs), 'run')}"
        return f"Interrupted: {moved}; the same command goes on." if self.interrupted else f"Done: {moved}."


def _task_instances(runs: Sequence[RepairableRun]) -> int:
    return sum(run.task_instances for run in runs if not run.needs_verify)


def _to_do(runs: Sequence[RepairableRun]) -> str:
    with_any = sum(1 for run in runs if run.task_instances and not run.needs_verify)
    return f"{counted(_task_instances(runs), 'task instance')} in {counted(with_any, 'run')}"


def _repair(
    connection: sa.engine.Connection,
    ids: Sequence[int],
    batch_size: int,
    done: Done,
    show: Callable[[int], None],
    stop: Event,
) -> None:
    """Do what the procedure dagbump.repair does, because not every driver shows that procedure's notices at once.

    The first pass visits all runs. Each further pass visits the runs in which task instances were locked, until a pass
    moves nothing.
    """
    try:
        while True:
            before = done.task_instances
            held: list[int] = []
            position = 0
            while position < len(ids):
                if stop.is_set():
                    done.interrupted = True
                    return
                batch = client.repair_batch(connection, ids[position : position + _RUNS_AT_ONCE], batch_size)
                connection.commit()
                position += batch.looked_at
                held += batch.locked_runs
                done.task_instances += batch.task_instances
                done.runs.update(batch.moved_runs)
                show(done.task_instances)
            if not held or done.task_instances == before:
                return
            ids = held
    except BaseException:
        note(f"dagbump repair: ended after {counted(done.task_instances, 'task instance')}; the same command goes on.")
        raise


@contextmanager
def _telling_how_far(to_do: int) -> Iterator[Callable[[int], None]]:
    """Show the progress on standard error, as a bar on a terminal, else as a line every few seconds."""
    from dagbump.command_line.progress_bar import progress_bar

    with progress_bar(to_do) as bar:
        yield bar or _lines(to_do)


def _lines(to_do: int) -> Callable[[int], None]:
    began = last = time.monotonic()

    def show(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            rate = done / (now - began)
            left = f", about {max(to_do - done, 0) / rate:,.0f} s left" if rate else ""
            note(f"dagbump repair: {done:,} of {counted(to_do, 'task instance')} moved, {rate:,.0f} per second{left}")

    return show


def _print_what_is_left(left: Sequence[RunPreview], *, wide: bool) -> None:
    if not left:
        return
    print("\nLeft alone:")
    print_table(_LEFT, left, wide=wide)
    print()
    for verdict in dict.fromkeys(row.verdict for row in left):
        words = verdict_of(verdict)
        print_text(f"{verdict}: {words.meaning} {words.advice(plugin_is_on=False).text}")
