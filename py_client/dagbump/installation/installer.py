"""Installs dagbump into a database, and removes it, by running the Alembic environment in ``migrations/``.

``alembic -c migrations/alembic.ini …`` does the same, because the environment does everything inside the database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from dagbump import database
from dagbump.errors import DagbumpError, Unreachable, summary
from dagbump.installation.concurrent_index import BUILDERS
from dagbump.installation.sql_files import MIGRATIONS

# Alembic's names for the heads of the two branches.
NEWEST = "dagbump@head"
NEWEST_INDEX = "index@head"

_PROGRESS_SECONDS = 0.2


@dataclass(frozen=True)
class Blocker:
    """A transaction or another index build, for which the work on the index waits.

    Attributes:
        pid: the process id of its backend.
        usename: its role.
        application_name: its application name.
        xact_start: when its transaction began, as the server prints it; None if this role may not see that.
    """

    pid: int
    usename: str | None
    application_name: str | None
    xact_start: str | None


@dataclass(frozen=True)
class IndexProgress:
    """The progress of the work on the index.

    Attributes:
        phase: the phase from pg_stat_progress_create_index; ``waiting`` if no build is running.
        done: how much of the phase is done, from 0 to 1.
        blocker: the transaction or build that it waits for; None if there is none.
    """

    phase: str
    done: float
    blocker: Blocker | None


OnProgress = Callable[[IndexProgress], None]


def upgrade(
    engine: sa.engine.Engine | None,
    revision: str = NEWEST,
    airflow_schema: str | None = None,
    *,
    sql: bool = False,
    airflow_shape: str | None = None,
    on_progress: OnProgress | None = None,
) -> bool:
    """Install dagbump, or bring it to a revision; all objects are replaced, also if that revision is recorded already.

    An interrupt (Ctrl-C) during the build of the optional index cancels the build and drops the unfinished index.

    Args:
        engine: the database; None with ``sql``.
        revision: an Alembic revision. `NEWEST_INDEX` builds the optional index, without blocking other sessions.
        airflow_schema: the schema of Airflow's tables; None: the schema on the search path that has ``task_instance``,
            else the schema that dagbump serves already.
        sql: print the script, and do not touch the database.
        airflow_shape: with ``sql``, the shape of Airflow's tables, as a key of `shapes`; None: the first shape.
        on_progress: is called several times a second while the index is built or the build has to wait.

    Returns:
        True if the optional index has to be built again, because it was built for an older shape of Airflow's tables or
        was dropped with them.

    Raises:
        DagbumpError: the database was refused. Nothing was written.
    """
    config = _config(engine, airflow_schema, airflow_shape)
    _run(config, lambda: command.upgrade(config, revision, sql=sql), on_progress)
    return bool(config.attributes.get("index_is_lost"))


def downgrade(
    engine: sa.engine.Engine | None,
    revision: str = "base",
    airflow_schema: str | None = None,
    *,
    sql: bool = False,
    airflow_shape: str | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Go back to an older revision; ``base`` leaves the database as it was before the first upgrade.

    The arguments are those of `upgrade`; with ``sql``, ``revision`` is ``FROM:TO``.
    """
    config = _config(engine, airflow_schema, airflow_shape)
    _run(config, lambda: command.downgrade(config, revision, sql=sql), on_progress)


def _run(config: Config, work: Callable[[], None], on_progress: OnProgress | None) -> None:
    def do_it() -> None:
        with _refusals():
            work()

    if on_progress is None:
        do_it()
        return
    # Work and watch run in threads of their own, so that this thread can handle a signal while a driver waits.
    with ThreadPoolExecutor(2) as pool:
        working = pool.submit(do_it)
        watching = pool.submit(_watch, working, config, on_progress)
        try:
            wait([working, watching], return_when=FIRST_EXCEPTION)
        except BaseException:
            _cancel(working, config)
            raise
        if not working.done():
            _cancel(working, config)
            watching.result()
        working.result()


def _watch(working: Future[None], config: Config, on_progress: OnProgress) -> None:
    """Report the progress until the work ends, or until no connection is left to watch it, as behind a small pooler."""
    with suppress(DagbumpError, sa.exc.SQLAlchemyError):
        engine: sa.engine.Engine = config.attributes["engine"]
        with database.connect(engine, config.attributes["airflow_schema"]) as observer:
            while not wait([working], timeout=_PROGRESS_SECONDS).done:
                with observer.begin():
                    rows = observer.execute(_PROGRESS, {"pid": config.attributes.get("backend_pid", 0)}).all()
                for phase, done, total, *blocker in rows:
                    progress = IndexProgress(
                        phase, done / total if total else 0.0, Blocker(*blocker) if blocker[0] else None
                    )
                    on_progress(progress)


def _cancel(working: Future[None], config: Config) -> None:
    """Cancel the build, and wait until the unfinished index is dropped.

    The request is repeated, because the server may not have begun the statement yet. The driver sends it as a cancel
    request, which needs no other database session and reaches the right session behind a pooler.
    """
    attributes = config.attributes
    attributes["stopping"].set()
    while not wait([working], timeout=_PROGRESS_SECONDS).done:
        connection: sa.engine.Connection | None = attributes.get("connection")
        if connection is not None and not attributes["not_to_cancel"].is_set():
            with suppress(Exception):  # if the connection is closed, there is nothing to cancel
                connection.connection.driver_connection.cancel()  # type: ignore[union-attr]


_PROGRESS = sa.text(
    f"""
    SELECT coalesce(build.phase, 'waiting') AS phase,
           build.blocks_done + build.tuples_done + build.lockers_done AS done,
           build.blocks_total + build.tuples_total + build.lockers_total AS total,
           blocker.pid, blocker.usename::text, blocker.application_name, blocker.xact_start::timestamptz(0)::text
    FROM (SELECT :pid AS pid) AS worker
    LEFT JOIN pg_catalog.pg_stat_progress_create_index AS build ON build.pid = worker.pid
    LEFT JOIN LATERAL (
        SELECT activity.pid, activity.usename, activity.application_name, activity.xact_start
        FROM pg_catalog.pg_stat_activity AS activity
        WHERE activity.pid = ANY (pg_catalog.pg_blocking_pids(worker.pid))
        OR activity.pid <> worker.pid AND activity.pid IN ({BUILDERS})
        ORDER BY activity.xact_start
        LIMIT 1
    ) AS blocker ON TRUE
    WHERE build.pid IS NOT NULL OR blocker.pid IS NOT NULL
    """  # noqa: S608  (a constant)
)


def _config(engine: sa.engine.Engine | None, airflow_schema: str | None, airflow_shape: str | None) -> Config:
    config = Config(str(MIGRATIONS / "alembic.ini"))
    attributes: dict[str, Any] = {
        "engine": engine,
        "airflow_schema": airflow_schema,
        "airflow_shape": airflow_shape,
        "quiet": True,
        "stopping": Event(),  # set: a build that waits for its turn gives up
        "not_to_cancel": Event(),  # set: the current statement cleans up, and must not be cancelled
    }
    config.attributes.update(attributes)
    return config


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise the DagbumpError that env.py has wrapped in a CommandError, which plain alembic needs."""
    try:
        yield
    except CommandError as error:
        if isinstance(error.__cause__, DagbumpError):
            raise error.__cause__ from error.__cause__.__cause__
        raise DagbumpError(str(error)) from error
    except sa.exc.SQLAlchemyError as error:
        lost = _lost_connection(error)
        if lost is None:
            raise
        raise Unreachable(
            f"the connection was lost: {summary(lost)}; run the same command again, which cleans up."
        ) from error


def _lost_connection(error: BaseException | None) -> sa.exc.DBAPIError | None:
    """Return the error in this chain that says that the connection is lost; None if there is none."""
    while error is not None:
        if isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated:
            return error
        error = error.__cause__ or error.__context__
    return None
