"""Installs dagbump into a database and removes it again, by running the Alembic environment in ``migrations/``.

``alembic -c migrations/alembic.ini …`` does the same: all that happens inside the database is decided there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from dagbump import database
from dagbump.errors import DagbumpError, Unreachable, summary
from dagbump.installation.names import INDEX_LOCK
from dagbump.installation.sql_files import MIGRATIONS

# Alembic's names for the heads of the two branches.
NEWEST = "dagbump@head"
NEWEST_INDEX = "index@head"

_PROGRESS_SECONDS = 0.2


@dataclass(frozen=True)
class Blocker:
    """A transaction, or another build, that the work on the index waits for.

    Attributes:
        pid: of its backend.
        usename: its role.
        application_name: what it calls itself.
        xact_start: when its transaction began, in the server's words; None where this role may not see that.
    """

    pid: int
    usename: str | None
    application_name: str | None
    xact_start: str | None


@dataclass(frozen=True)
class IndexProgress:
    """How far the work on the index is.

    Attributes:
        phase: of pg_stat_progress_create_index; ``waiting`` where nothing is built.
        done: how much of the phase is done, 0 to 1.
        blocker: whom it waits for.
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
    """Install dagbump, or bring it to a revision; whatever is recorded, make what is there what it should be.

    An interrupt (Ctrl-C) while the optional index is built cancels the build, and what there is of it is dropped.

    Args:
        engine: the database; None with ``sql``.
        revision: an Alembic revision; `NEWEST_INDEX` builds the optional index, without blocking anybody.
        airflow_schema: where Airflow's tables are; None: where ``task_instance`` is found on the search path, else
            where dagbump has been installed for.
        sql: print the script and leave the database alone.
        airflow_shape: with ``sql``, for which of Airflow's tables, one of `sql_files.SHAPES`; None: the first.
        on_progress: called several times a second while the index is built, or is waited for.

    Returns:
        Whether the optional index has to be built again: it is there for other tables of Airflow's, or went with them.

    Raises:
        DagbumpError: the database was refused; nothing was written.
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

    Takes the arguments of `upgrade`; with ``sql``, ``revision`` is ``FROM:TO``.
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
    engine: sa.engine.Engine = config.attributes["engine"]
    # The observer is apart from the pool, which waits for the work to end, and so for a cancelled one to clean up.
    with (
        database.connect(engine).execution_options(isolation_level="AUTOCOMMIT") as observer,
        ThreadPoolExecutor(1) as pool,
    ):
        working = pool.submit(do_it)
        try:
            while not wait([working], timeout=_PROGRESS_SECONDS).done:
                for progress in _progress(observer, config):
                    on_progress(progress)
        except BaseException:
            _cancel(working, engine, config, on_progress)
            raise
        working.result()


def _cancel(working: Future[None], engine: sa.engine.Engine, config: Config, on_progress: OnProgress) -> None:
    """Cancel what is under way, and wait, reporting for whom, until what there is of the index is dropped."""
    config.attributes["stopping"].set()
    # On a connection of its own: the observer's may have been interrupted in the middle of a query. Again and again:
    # the server may not have come to the statement yet.
    with database.connect(engine).execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not wait([working], timeout=_PROGRESS_SECONDS).done:
            connection.execute(_CANCEL, {"pid": _backend(config)})
            for progress in _progress(connection, config):
                on_progress(progress)


def _backend(config: Config) -> int:
    """Return the backend in which the environment works; 0 before it has connected."""
    pid: int = config.attributes.get("backend_pid", 0)
    return pid


# A DROP INDEX is not cancelled: it is what cleans up, and soon over where nobody is in its way.
_CANCEL = sa.text(
    "SELECT pg_catalog.pg_cancel_backend(activity.pid) FROM pg_catalog.pg_stat_activity AS activity "
    "WHERE activity.pid = :pid AND NOT pg_catalog.starts_with(activity.query, 'DROP INDEX')"
)
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
        OR activity.pid <> worker.pid AND activity.pid IN (
            SELECT lock.pid
            FROM pg_catalog.pg_locks AS lock
            JOIN pg_catalog.pg_database AS here ON here.oid = lock.database
            WHERE here.datname = pg_catalog.current_database() AND lock.locktype = 'advisory'
            AND lock.granted AND (lock.classid::bigint << 32) + lock.objid::bigint = {INDEX_LOCK}
        )
        ORDER BY activity.xact_start
        LIMIT 1
    ) AS blocker ON TRUE
    WHERE build.pid IS NOT NULL OR blocker.pid IS NOT NULL
    """  # noqa: S608  (a constant)
)


def _progress(observer: sa.engine.Connection, config: Config) -> Iterator[IndexProgress]:
    for phase, done, total, *blocker in observer.execute(_PROGRESS, {"pid": _backend(config)}):
        yield IndexProgress(phase, done / total if total else 0.0, Blocker(*blocker) if blocker[0] else None)


def _config(engine: sa.engine.Engine | None, airflow_schema: str | None, airflow_shape: str | None) -> Config:
    config = Config(str(MIGRATIONS / "alembic.ini"))
    attributes: dict[str, Any] = {
        "engine": engine,
        "airflow_schema": airflow_schema,
        "airflow_shape": airflow_shape,
        "quiet": True,
        "stopping": Event(),  # set: whoever waits for its turn gives up
    }
    config.attributes.update(attributes)
    return config


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise what env.py refused as what it is; plain alembic wants a CommandError around it."""
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
        raise Unreachable(f"the connection was lost: {summary(lost)}; run the same again, which cleans up.") from error


def _lost_connection(error: BaseException | None) -> sa.exc.DBAPIError | None:
    """Return the error behind this one that says that the connection is gone."""
    while error is not None:
        if isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated:
            return error
        error = error.__cause__ or error.__context__
    return None
