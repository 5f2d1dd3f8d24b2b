"""Installs dagbump into a database and removes it again, by running the Alembic environment in ``migrations/``.

``alembic -c migrations/alembic.ini …`` does the same: all that happens inside the database is decided there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from dagbump import database
from dagbump.errors import DagbumpError
from dagbump.sql_files import shipped

SCHEMA = "dagbump"
INDEX = "dagbump_ti_unfinished"

# Alembic's names for the heads of the two branches.
NEWEST = "dagbump@head"
NEWEST_INDEX = "index@head"

_PROGRESS_SECONDS = 0.2


def upgrade(
    engine: sa.engine.Engine | None, revision: str = NEWEST, airflow_schema: str | None = None, *, sql: bool = False
) -> None:
    """Install dagbump, or bring it to a revision.

    Args:
        engine: the database; None with ``sql``.
        revision: an Alembic revision.
        airflow_schema: where Airflow's tables are; None: where ``task_instance`` is found on the search path.
        sql: print the script and leave the database alone.

    Raises:
        DagbumpError: the database was refused; nothing was written.
    """
    with _refusals():
        command.upgrade(_config(engine, airflow_schema), revision, sql=sql)


def downgrade(
    engine: sa.engine.Engine | None, revision: str = "base", airflow_schema: str | None = None, *, sql: bool = False
) -> None:
    """Go back to an older revision; ``base`` leaves the database as it was before the first upgrade.

    Takes the arguments of `upgrade`; with ``sql``, ``revision`` is ``FROM:TO``.
    """
    with _refusals():
        command.downgrade(_config(engine, airflow_schema), revision, sql=sql)


@dataclass(frozen=True)
class IndexProgress:
    """A row of pg_stat_progress_create_index: what the build does, and how much of it is done, 0 to 1."""

    phase: str
    done: float


def build_index(
    engine: sa.engine.Engine, airflow_schema: str | None, on_progress: Callable[[IndexProgress], None]
) -> None:
    """Build the optional index, without blocking anybody, while reporting how far it is.

    An interrupt (Ctrl-C) cancels the build, and what there is of the index is dropped.

    Args:
        engine: the database.
        airflow_schema: as in `upgrade`.
        on_progress: called several times a second while the server builds.

    Raises:
        DagbumpError: as in `upgrade`.
    """
    # The observer is apart from the pool, which waits for the build to end, and so for a cancelled one to clean up.
    with (
        database.connect(engine).execution_options(isolation_level="AUTOCOMMIT") as observer,
        ThreadPoolExecutor(1) as pool,
    ):
        build = pool.submit(upgrade, engine, NEWEST_INDEX, airflow_schema)
        try:
            while not wait([build], timeout=_PROGRESS_SECONDS).done:
                for progress in _index_progress(observer):
                    on_progress(progress)
        except BaseException:
            _cancel(build, engine)
            raise
        build.result()


def _cancel(build: Future[None], engine: sa.engine.Engine) -> None:
    """Cancel a build and wait until it has cleaned up."""
    # On a connection of its own: the observer's may have been interrupted in the middle of a query. Again and again:
    # the server may not have come to the build yet.
    with database.connect(engine).execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not wait([build], timeout=_PROGRESS_SECONDS).done:
            connection.execute(sa.text(f"SELECT pg_catalog.pg_cancel_backend(build.pid) {_FROM_BUILDS}"))


# The builds of this database; relid cannot be named without knowing the schema, the index can.
_FROM_BUILDS = f"""
    FROM pg_catalog.pg_stat_progress_create_index AS build
    JOIN pg_catalog.pg_class AS index ON index.oid = build.index_relid AND index.relname = '{INDEX}'
    WHERE build.datname = pg_catalog.current_database()
"""


def _index_progress(observer: sa.engine.Connection) -> Iterator[IndexProgress]:
    rows = observer.execute(
        sa.text(
            f"""
            SELECT build.phase, build.blocks_done + build.tuples_done + build.lockers_done AS done,
                   build.blocks_total + build.tuples_total + build.lockers_total AS total
            {_FROM_BUILDS}
            """
        )
    )
    for phase, done, total in rows:
        yield IndexProgress(phase, done / total if total else 0.0)


def installed_revision(connection: sa.engine.Connection) -> str | None:
    """Return the revision that the database holds, the index aside; None where dagbump is not installed."""
    if connection.scalar(sa.text("SELECT pg_catalog.to_regclass('dagbump.alembic_version')")) is None:
        return None
    revision: str | None = connection.scalar(
        sa.text("SELECT version_num FROM dagbump.alembic_version WHERE version_num NOT LIKE 'index%'")
    )
    return revision


def newest_revision() -> str:
    """Return the revision that this package brings, the index aside."""
    head = ScriptDirectory.from_config(_config(None, None)).get_revision(NEWEST)
    assert head is not None  # noqa: S101  (the package ships at least one migration)
    return head.revision


def _config(engine: sa.engine.Engine | None, airflow_schema: str | None) -> Config:
    config = Config(str(shipped("migrations") / "alembic.ini"))
    config.attributes.update(engine=engine, airflow_schema=airflow_schema, quiet=True)
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
