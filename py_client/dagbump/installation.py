"""Installs dagbump into a database and removes it again, by running the Alembic environment in ``migrations/``.

``alembic -c migrations/alembic.ini …`` does the same: all that happens inside the database is decided there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from dagbump.errors import DagbumpError
from dagbump.sql_files import shipped

SCHEMA = "dagbump"


def upgrade(
    engine: sa.engine.Engine | None, revision: str = "head", airflow_schema: str | None = None, *, sql: bool = False
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


def installed_revision(connection: sa.engine.Connection) -> str | None:
    """Return the revision that the database holds, None where dagbump is not installed."""
    if connection.scalar(sa.text("SELECT pg_catalog.to_regclass('dagbump.alembic_version')")) is None:
        return None
    revision: str | None = connection.scalar(sa.text("SELECT version_num FROM dagbump.alembic_version"))
    return revision


def newest_revision() -> str:
    """Return the revision that this package brings."""
    head = ScriptDirectory.from_config(_config(None, None)).get_current_head()
    assert head is not None  # noqa: S101  (the package ships at least one migration)
    return head


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
