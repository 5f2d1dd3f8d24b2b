"""The command line, ``dagbump``: each command in a few lines; what it does is in the other modules.

Exit codes: 0 done; 1 the work failed; 2 wrong usage; 3 database not reachable; 4 not installed or not supported.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from datetime import datetime
from typing import Annotated, Any

import sqlalchemy as sa
import typer
from alembic.script.revision import RevisionError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from dagbump import client, database, filters
from dagbump.errors import (
    DagbumpError,
    InvalidUrl,
    NotInstalled,
    Unreachable,
    UnsupportedAirflow,
    VersionMismatch,
    summary,
    translated,
)
from dagbump.installation import installer, names, state
from dagbump.loop import BumpLoop
from dagbump.results import BumpResult, RunBump, RunPreview

app = typer.Typer(
    name="dagbump",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Keeps task_instance.dag_version_id right inside Airflow's PostgreSQL database.

    First time on a database: [bold]dagbump upgrade[/], then [bold]dagbump preview[/], then [bold]dagbump bump[/].

    Exit codes: 0 done, 1 the work failed, 2 wrong usage, 3 database not reachable, 4 not installed or not supported.
    """,
    rich_markup_mode="rich",
)

_WRONG_USAGE, _UNREACHABLE, _UNSUPPORTED = 2, 3, 4


@app.callback()
def _before_every_command() -> None:
    """Print what a terminal's encoding does not know in another way, rather than fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in {"strict", "surrogateescape"}:
            stream.reconfigure(errors="backslashreplace")


def _text(value: str | None) -> str | None:
    """Refuse what is empty, as an unset variable is, and bytes that are no text."""
    if value is not None and not value.strip():
        raise typer.BadParameter("it is empty")
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("it is not text in this locale's encoding") from None
    return value


def _texts(values: list[str] | None) -> list[str] | None:
    return values and [value for value in values if _text(value)]


def _seconds(value: float) -> float:
    if value != value:  # noqa: PLR0124  (not a number, which is neither too small nor too large)
        raise typer.BadParameter("it is not a number")
    return value


Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The database: any SQLAlchemy URL or libpq connection string. "
        "Default: DAGBUMP_URL, else AIRFLOW__DATABASE__SQL_ALCHEMY_CONN, else airflow.cfg.",
    ),
]
AirflowSchema = Annotated[
    str | None,
    typer.Option(
        "--airflow-schema",
        metavar="NAME",
        callback=_text,
        help="The schema of Airflow's tables. Default: where task_instance is found on the search path; "
        "with --sql, public.",
    ),
]
OfAirflow = Annotated[
    str | None,
    typer.Option(
        "--airflow-schema",
        metavar="NAME",
        callback=_text,
        help="The schema of the Airflow that you mean, where the search path leads to another one.",
    ),
]
PrintSql = Annotated[bool, typer.Option("--sql", help="Print the script for review; touch no database.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DagRunIds = Annotated[
    list[int] | None,
    typer.Option("--dag-run-id", min=0, max=2**63 - 1, metavar="ID", help="Only this run (dag_run.id); repeatable."),
]
DagIds = Annotated[
    list[str] | None, typer.Option("--dag-id", metavar="ID", callback=_texts, help="Only this DAG; repeatable.")
]
MaxRuns = Annotated[
    int | None,
    typer.Option("--max-runs", min=0, max=2**31 - 1, metavar="N", help="At most N runs, in the scheduler's order."),
]
CallerVerifies = Annotated[
    bool,
    typer.Option(
        "--caller-verifies",
        help="Also bump runs for which verify_integrity is due. You promise to run it for them in the same "
        "transaction, which a command line cannot do: for tests and for repairs by people who know Airflow's code.",
    ),
]


@app.command()
def upgrade(
    revision: Annotated[str, typer.Argument(callback=_text, help="An Alembic revision.")] = "head",
    url: Url = None,
    airflow_schema: AirflowSchema = None,
    with_index: Annotated[
        bool,
        typer.Option(
            "--with-index",
            help="Also build the optional partial index on task_instance, CONCURRENTLY: with it, a loop in which "
            "nothing changed costs the same however many task instances a run has.",
        ),
    ] = False,
    sql: PrintSql = False,
) -> None:
    """Install dagbump in Airflow's database, or bring it to the newest revision.

    Everything goes into schema dagbump, in one transaction; Airflow's tables and its own migrations are left alone.
    Only the optional index is on a table of Airflow's.
    """
    with _exit_codes():
        if sql:
            installer.upgrade(None, "heads" if with_index else revision, airflow_schema, sql=True)
            return
        engine = _engine(url)
        installer.upgrade(engine, revision, airflow_schema)
        if with_index:
            with _index_progress() as show:
                installer.upgrade(engine, installer.NEWEST_INDEX, airflow_schema, on_progress=show)
        _say(_what_is_installed(engine, airflow_schema))


@contextmanager
def _index_progress() -> Iterator[installer.OnProgress]:
    """Show how far the work on the index is: a bar on a terminal, and a line whenever it waits for somebody else."""
    console = Console(stderr=True)
    waited_for: installer.Blocker | None = None
    with Progress(*Progress.get_default_columns(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(names.INDEX, total=1.0)

        def show(progress: installer.IndexProgress) -> None:
            nonlocal waited_for
            bar.update(task, description=f"{names.INDEX}: {progress.phase}", completed=progress.done)
            if progress.blocker and progress.blocker != waited_for:
                bar.console.print(_waits_for(progress.blocker), markup=False, highlight=False, soft_wrap=True)
            waited_for = progress.blocker or waited_for

        yield show
        bar.update(task, description=f"{names.INDEX}: done", completed=1.0)


def _waits_for(blocker: installer.Blocker) -> str:
    who = f"{blocker.application_name or 'an application without a name'}, as {blocker.usename or 'an unknown role'}"
    since = f", in a transaction since {blocker.xact_start}" if blocker.xact_start else ""
    return f"{names.INDEX} waits for process {blocker.pid} ({who}{since})"


@app.command()
def downgrade(
    revision: Annotated[
        str,
        typer.Argument(
            callback=_text,
            help="An Alembic revision; base removes dagbump, index@base the optional index. "
            "With --sql: FROM:TO, as in 0001:base.",
        ),
    ] = "base",
    url: Url = None,
    airflow_schema: AirflowSchema = None,
    sql: PrintSql = False,
) -> None:
    """Remove dagbump from the database, which is left as it was before the first upgrade."""
    with _exit_codes():
        if sql:
            if ":" not in revision:
                raise typer.BadParameter("with --sql, say where from and where to: 0001:base")
            installer.downgrade(None, revision, airflow_schema, sql=True)
            return
        engine = _engine(url)
        with _index_progress() as show:
            installer.downgrade(engine, revision, airflow_schema, on_progress=show)
        _say(_what_is_installed(engine, airflow_schema))


def _what_is_installed(engine: sa.engine.Engine, airflow_schema: str | None) -> str:
    """Say what a look at the database finds, after an upgrade or a downgrade."""
    with database.connect(engine) as connection, translated():
        try:
            installed = state.require_usable(connection, airflow_schema)
        except NotInstalled:
            return f"dagbump is not installed in {database.describe(engine)}."
        index = {
            None: "is not there: --with-index builds it",
            True: "is there",
            False: "is not valid: --with-index mends it",
        }
        found = state.index_is_valid(connection, installed.airflow_schema)
    return (
        f"dagbump {installed.revision} is installed in {database.describe(engine)}, for the Airflow in schema "
        f"{installed.airflow_schema}. The optional index {index[found]}. Next: dagbump preview"
    )


@app.command()
def preview(
    url: Url = None,
    airflow_schema: OfAirflow = None,
    dag_run_id: DagRunIds = None,
    dag_id: DagIds = None,
    max_runs: MaxRuns = None,
    caller_verifies: CallerVerifies = False,
    as_json: Json = False,
) -> None:
    """Show what bump would do, and why it leaves other stale task instances alone. Reads only."""
    with _exit_codes(), _connection(url, airflow_schema) as (connection, installed):
        chosen = filters.look_up(connection, installed.airflow_schema, dag_run_id, dag_id, max_runs)
        rows = client.preview(connection, dag_run_id, dag_id, max_runs, caller_verifies)
    with _printing():
        if as_json:
            _print_json([asdict(row) for row in rows])
        elif rows:
            _print_table(RunPreview, rows)
        else:
            print(_nothing("Nothing is stale", "unfinished task instance", chosen))


@app.command()
def bump(
    url: Url = None,
    airflow_schema: OfAirflow = None,
    dag_run_id: DagRunIds = None,
    dag_id: DagIds = None,
    max_runs: MaxRuns = None,
    caller_verifies: CallerVerifies = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, with --caller-verifies.")] = False,
    as_json: Json = False,
) -> None:
    """Move stale task instances to the latest version of their DAG, once.

    By hand this is the safe form: runs for which Airflow's verify_integrity is due are left to the scheduler,
    which gets to them within a loop. It waits for no row lock; what is locked, a later call picks up.
    """
    if caller_verifies:
        _warn_about_caller_verifies(yes=yes)
    with _exit_codes(), _connection(url, airflow_schema) as (connection, installed):
        chosen = filters.look_up(connection, installed.airflow_schema, dag_run_id, dag_id, max_runs)
        result = client.bump(connection, dag_run_id, dag_id, max_runs, caller_verifies)
        connection.commit()
    with _printing(committed=True):
        if as_json:
            _print_json([asdict(row) for row in result.runs])
        elif result.runs:
            _print_table(RunBump, result.runs)
            print(_sentence(result))
        else:
            print(_nothing("Nothing to do", "task instance that may be bumped", chosen))


@app.command()
def run(
    url: Url = None,
    airflow_schema: OfAirflow = None,
    interval: Annotated[
        float,
        typer.Option("--interval", min=0.1, max=86400, metavar="SECONDS", callback=_seconds, help="Between two bumps."),
    ] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Bump once per interval, beside a stock scheduler, until SIGTERM or Ctrl-C.

    Each bump is the safe form, in a transaction of its own. Prints a line per loop that changed something, and one when
    other runs than before are left to Airflow or held. What may pass is waited for, with growing pauses: a lost
    database, a lock, a timeout, a migration.
    """

    def prepare() -> sa.engine.Engine:
        with _connection(url, airflow_schema) as (connection, _):  # what cannot be waited out fails here
            engine = connection.engine
        _note(f"dagbump run: one safe bump every {interval:g} s in {database.describe(engine)}. Ctrl-C ends it.")
        return engine

    with _exit_codes(), _printing(committed=True):
        loop = BumpLoop(prepare, interval, _RunReport(as_json=as_json))
        _end_on_signals(loop)
        loop.run()
        _note("dagbump run: ended.")
        _flush()
        os._exit(0)  # Python's own way out takes a part of that second, and more where a thread hangs in a driver


@app.command()
def demo(
    runs: Annotated[int, typer.Option("--runs", min=1, metavar="N", help="Running runs in the fleet.")] = 20,
    tis: Annotated[int, typer.Option("--tis", min=1, metavar="N", help="Task instances of each.")] = 100,
) -> None:
    r"""Show it all on an embedded PostgreSQL: a fleet of runs, new DAG versions, loops, and what each costs.

    Touches no database of yours, and removes what it makes. Needs: pip install 'dagbump\[demo]'.
    """
    with _exit_codes():
        try:
            from dagbump.demo import run_demo

            run_demo(runs, tis)
        except ImportError as error:
            raise DagbumpError(f"the demo needs its extra: pip install 'dagbump[demo]' ({error})") from None


def _end_on_signals(loop: BumpLoop) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT)

    def stop(*_: object) -> None:
        loop.stop()
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)  # the next one ends it on the spot

    for number in numbers:
        signal.signal(number, stop)


class _RunReport:
    """What `dagbump run` prints: what is new, once, with the time."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._seen: list[object] = []
        self._troubles: set[str] = set()

    def result(self, result: BumpResult) -> None:
        # A run that waits for Airflow is in every loop's answer; say it when it is new.
        before, self._seen = self._seen, [(row.dag_run_id, row.dag_version_id, row.locked) for row in result.runs]
        if not result.runs or (not result.bumped and self._seen == before):
            return
        if self._as_json:
            line = json.dumps({"at": _now(), "runs": [asdict(row) for row in result.runs]}, default=str)
        else:
            line = f"{_now()} {_sentence(result)}"
        try:
            print(line, flush=True)
        except BrokenPipeError:
            raise  # it is read by nobody any more
        except OSError as error:  # a full disk, for one, does not stop the work
            _note(f"{_now()} dagbump run: a line cannot be printed: {error.strerror}")

    def trouble(self, error: BaseException) -> None:
        told = "; ".join(str(error).splitlines()) if isinstance(error, DagbumpError) else summary(error)
        if told not in self._troubles:
            self._troubles.add(told)
            _note(f"{_now()} dagbump run: {told}; trying again, with growing pauses")

    def recovered(self) -> None:
        self._troubles.clear()
        _note(f"{_now()} dagbump run: connected again, and bumping")


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _nothing(what: str, which: str, chosen: filters.Filter) -> str:
    """Say why an answer is empty, and of which runs that is said."""
    if chosen.obstacle:
        return f"{what}. {chosen.obstacle}"
    return f"{what}{' in ' if chosen.name else ''}{chosen.name}: every {which} is on the latest version of its DAG."


def _sentence(result: BumpResult) -> str:
    """Say what a bump did that had something to answer."""
    changed = sum(1 for row in result.runs if row.bumped)
    parts = []
    if result.bumped:
        parts.append(f"bumped {_counted(result.bumped, 'task instance')} in {_counted(changed, 'run')}")
    if result.locked:
        parts.append(f"left {_counted(result.locked, 'task instance')} that other transactions hold")
    if result.needs_verify:
        parts.append(f"verify_integrity is due for {_counted(len(result.needs_verify), 'run')}")
    return "; ".join(parts)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _warn_about_caller_verifies(*, yes: bool) -> None:
    _note(
        "--caller-verifies bumps runs that Airflow has not verified yet. Airflow verifies a run only while the latest\n"
        "version is on none of its task instances: unless you run verify_integrity for each run answered with\n"
        "needs_verify, the task instances of newly added tasks are never created in it."
    )
    if yes:
        return
    if not sys.stdin.isatty():
        _note("Say --yes to go on without being asked.")
        raise typer.Exit(_WRONG_USAGE)
    typer.confirm("Go on?", abort=True, err=True)


def _engine(url: str | None) -> sa.engine.Engine:
    return database.create_engine(database.find_url(url))


@contextmanager
def _connection(url: str | None, airflow_schema: str | None) -> Iterator[tuple[sa.engine.Connection, state.Installed]]:
    """Connect for one command, after a look at what is installed, which says more than a missing function would."""
    with database.connect(_engine(url)) as connection:
        with translated():
            installed = state.require_usable(connection, airflow_schema)
        yield connection, installed


@contextmanager
def _exit_codes() -> Iterator[None]:
    """End with the exit code and one message, never a traceback, for what a user can mend."""
    try:
        with _quiet_when_nobody_reads():
            yield
    except DagbumpError as error:
        _note(f"dagbump: {error}")
        if isinstance(error, InvalidUrl) or _names_no_revision(error):
            raise typer.Exit(_WRONG_USAGE) from None
        if isinstance(error, Unreachable):
            raise typer.Exit(_UNREACHABLE) from None
        if isinstance(error, NotInstalled | VersionMismatch | UnsupportedAirflow):
            raise typer.Exit(_UNSUPPORTED) from None
        raise typer.Exit(1) from None
    except OSError as error:
        _note(f"dagbump: {error}")
        raise typer.Exit(1) from None
    except sa.exc.DBAPIError as error:
        _note(f"dagbump: {summary(error)}")
        raise typer.Exit(_UNREACHABLE if error.connection_invalidated else 1) from None


def _names_no_revision(error: DagbumpError) -> bool:
    """Tell whether Alembic does not know the revision that was asked for."""
    return error.__cause__ is not None and isinstance(error.__cause__.__cause__, RevisionError)


@contextmanager
def _quiet_when_nobody_reads() -> Iterator[None]:
    """End without a word where a pipe is closed at its other end, as by head."""
    try:
        yield
        _flush()
    except BrokenPipeError:
        _print_no_more()


@contextmanager
def _printing(*, committed: bool = False) -> Iterator[None]:
    """Print an answer. Failing to print it says nothing about the work, which may be done and committed."""
    try:
        with _quiet_when_nobody_reads():
            yield
    except OSError as error:
        _print_no_more()
        _note(f"dagbump: the answer cannot be printed: {error.strerror}.{' The work is done.' if committed else ''}")
        raise typer.Exit(0 if committed else 1) from None


def _flush() -> None:
    if sys.stdout is not None:  # None where it was closed from the start
        sys.stdout.flush()


def _print_no_more() -> None:
    """Let what is left in the buffer go nowhere; Python would fail over it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, default=str))


def _print_table(kind: type[RunBump | RunPreview], rows: Iterable[RunBump | RunPreview]) -> None:
    # Nothing that comes from a database is markup.
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:  # a pipe has no width to fit into
        console.width = 1_000_000
    table = Table(box=None, header_style="bold", pad_edge=False)
    for field in fields(kind):
        numeric = field.type in {"int", "int | None"}
        table.add_column(field.name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(getattr(row, field.name))) for field in fields(kind)))
    with console.capture() as text:  # rich would end the process over a closed pipe
        console.print(table)
    print(text.get(), end="")


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {count}" for key, count in sorted(value.items()))
    return "" if value is None else str(value)


def _say(message: str) -> None:
    """Tell what has been done."""
    with _printing(committed=True):
        print(message)


def _note(message: str) -> None:
    with suppress(OSError):  # there is nowhere left to tell it
        print(message, file=sys.stderr, flush=True)
