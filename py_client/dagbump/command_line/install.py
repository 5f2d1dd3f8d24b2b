"""``dagbump upgrade`` and ``dagbump downgrade``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from dagbump.command_line.connecting import engine_for
from dagbump.command_line.exit_codes import exit_codes
from dagbump.command_line.options import AirflowSchema, AirflowShape, PrintSql, TrustOwner, Url, text
from dagbump.command_line.output import say
from dagbump.command_line.postponed import Postponed
from dagbump.errors import DagbumpError, ExitCode, NotInstalled, translated
from dagbump.installation import names
from dagbump.wording import counted

if TYPE_CHECKING:
    import sqlalchemy as sa

    from dagbump import database
    from dagbump.installation import installer, state
else:
    database = Postponed("dagbump.database")
    installer = Postponed("dagbump.installation.installer")
    sa = Postponed("sqlalchemy")
    state = Postponed("dagbump.installation.state")


def upgrade(
    revision: Annotated[str, typer.Argument(callback=text, help="An Alembic revision.")] = "head",
    url: Url = None,
    airflow_schema: AirflowSchema = None,
    trust_owner: TrustOwner = False,
    with_index: Annotated[
        bool,
        typer.Option(
            "--with-index",
            help="Also build the optional partial index on task_instance, CONCURRENTLY. With it, a loop in which "
            "nothing changed costs the same, however many task instances a run has.",
        ),
    ] = False,
    sql: PrintSql = False,
    airflow_shape: AirflowShape = None,
) -> None:
    """Install dagbump in Airflow's database, or bring it to the newest revision.

    Everything goes into schema dagbump, in one transaction. Airflow's tables and migrations are not touched; only the
    optional index is on one of Airflow's tables. Run this command again after an `airflow db migrate` that changes
    Airflow's tables, such as the migration to 3.4. It then creates the functions for the new tables, and rebuilds the
    optional index if there was one.
    """
    with exit_codes(), _unknown_revisions():
        _only_with_sql(airflow_shape, sql=sql)
        if sql:
            whither = "heads" if with_index else revision
            installer.upgrade(None, whither, airflow_schema, sql=True, airflow_shape=airflow_shape)
            return
        engine = engine_for(url, trust_owner=trust_owner)
        if installer.upgrade(engine, revision, airflow_schema) or with_index:
            with _index_progress() as show:
                installer.upgrade(engine, installer.NEWEST_INDEX, airflow_schema, on_progress=show)
        say(_what_is_installed(engine, airflow_schema))


def downgrade(
    revision: Annotated[
        str,
        typer.Argument(
            callback=text,
            help="An Alembic revision. base removes dagbump; index@base removes the optional index. "
            "With --sql also FROM:TO, if the database does not have the newest revision.",
        ),
    ] = "base",
    url: Url = None,
    airflow_schema: AirflowSchema = None,
    trust_owner: TrustOwner = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before dropping the history.")] = False,
    sql: PrintSql = False,
    airflow_shape: AirflowShape = None,
) -> None:
    """Remove dagbump from the database, and leave it as it was before the first upgrade.

    On a terminal, the command asks first if rows in dagbump.history would be lost.
    """
    with exit_codes(), _unknown_revisions():
        _only_with_sql(airflow_shape, sql=sql)
        if sql:
            if ":" not in revision:
                newest = installer.NEWEST_INDEX if revision.startswith("index") else installer.NEWEST
                revision = f"{newest}:{revision}"
            installer.downgrade(None, revision, airflow_schema, sql=True, airflow_shape=airflow_shape)
            return
        engine = engine_for(url, trust_owner=trust_owner)
        before = _look(engine, airflow_schema)
        if before.history and _may_remove_all(revision) and not yes and sys.stdin.isatty():
            rows = counted(before.history, "row")
            typer.confirm(f"This drops dagbump.history, which has {rows}. Go on?", abort=True, err=True)
        with _index_progress() as show:
            installer.downgrade(engine, revision, airflow_schema, on_progress=show)
        say(_what_was_removed(engine, before, airflow_schema))


@dataclass(frozen=True)
class _Found:
    """The parts of dagbump that a database has."""

    schema: bool = False
    index: bool = False
    history: int = 0


def _look(engine: sa.engine.Engine, airflow_schema: str | None) -> _Found:
    """Look at what a downgrade may remove; errors are ignored, because the downgrade itself raises them again."""
    with database.connect(engine, airflow_schema) as connection, suppress(DagbumpError), translated():
        index = any(row.ours for row in state.named_as_optional_index(connection))
        if state.find_ours(connection, None) is None:
            return _Found(index=index)
        return _Found(schema=True, index=index, history=connection.scalar(_history_of(connection)) or 0)
    return _Found()


def _history_of(connection: sa.engine.Connection) -> sa.TextClause:
    """Return a query that counts the rows of dagbump.history, which an incomplete installation may lack."""
    is_there = connection.scalar(sa.text("SELECT pg_catalog.to_regclass('dagbump.history') IS NOT NULL"))
    return sa.text("SELECT pg_catalog.count(*) FROM dagbump.history" if is_there else "SELECT 0")


def _may_remove_all(revision: str) -> bool:
    """Return whether a downgrade to this revision may remove everything; base and a relative revision may."""
    branch, _, target = revision.rpartition("@")
    return branch != "index" and (target == "base" or "-" in target)


def _what_was_removed(engine: sa.engine.Engine, before: _Found, airflow_schema: str | None) -> str:
    after = _look(engine, airflow_schema)
    history = f"with {counted(before.history, 'row')} of history" if before.history else "whose history was empty"
    removed = [f"schema dagbump, {history}"] if before.schema and not after.schema else []
    removed += ["the optional index"] if before.index and not after.index else []
    place = database.describe(engine)
    if removed:
        told = f"Removed from {place}: {' and '.join(removed)}."
    else:
        told = f"Nothing was removed from {place}." if before.schema else f"There was nothing to remove in {place}."
    try:
        return f"{told} {_what_is_installed(engine, airflow_schema)}"
    except NotInstalled:
        return f"{told} dagbump is not installed there{' any more' if removed else ''}."


def _only_with_sql(airflow_shape: str | None, *, sql: bool) -> None:
    if airflow_shape and not sql:
        raise typer.BadParameter("--airflow-shape is only for --sql; without it, dagbump looks into the database")


@contextmanager
def _index_progress() -> Iterator[installer.OnProgress]:
    """Show the progress of the index build as a bar on a terminal, and a line when it waits for another process."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    waited_for: installer.Blocker | None = None
    with Progress(*Progress.get_default_columns(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(names.INDEX, total=1.0, visible=False)  # until there is work on an index

        def show(progress: installer.IndexProgress) -> None:
            nonlocal waited_for
            bar.update(task, description=f"{names.INDEX}: {progress.phase}", completed=progress.done, visible=True)
            if progress.blocker and progress.blocker != waited_for:
                bar.console.print(_waits_for(progress.blocker), markup=False, highlight=False, soft_wrap=True)
            waited_for = progress.blocker or waited_for

        yield show
        bar.update(task, description=f"{names.INDEX}: done", completed=1.0)


def _waits_for(blocker: installer.Blocker) -> str:
    who = f"{blocker.application_name or 'an application without a name'}, as {blocker.usename or 'an unknown role'}"
    since = f", in a transaction since {blocker.xact_start}" if blocker.xact_start else ""
    return f"{names.INDEX} waits for process {blocker.pid} ({who}{since})"


def _what_is_installed(engine: sa.engine.Engine, airflow_schema: str | None) -> str:
    """Look into the database after an upgrade or a downgrade, and say what is installed."""
    with database.connect(engine, airflow_schema) as connection, translated():
        installed = state.require_usable(connection, airflow_schema)
        index = state.optional_index(connection, installed.airflow_schema)
    return (
        f"dagbump {installed.release}, revision {installed.revision}, is installed in {database.describe(engine)}, "
        f"for the Airflow in schema {installed.airflow_schema}. The optional index {index.value}. Next: dagbump preview"
    )


class UnknownRevision(DagbumpError):  # noqa: N818  (as in `dagbump.errors`)
    """Alembic does not know the revision that was asked for."""

    exit_code = ExitCode.WRONG_USAGE


@contextmanager
def _unknown_revisions() -> Iterator[None]:
    """Raise `UnknownRevision` if Alembic does not know the revision; other errors are raised as they are."""
    try:
        yield
    except DagbumpError as error:
        from alembic.script.revision import RevisionError

        if error.__cause__ is not None and isinstance(error.__cause__.__cause__, RevisionError):
            raise UnknownRevision(str(error)) from error
        raise
