"""Runs SQL in the current migration; the Alembic environment and the revisions call these functions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import context

from dagbump.installation import sql_files
from dagbump.installation.names import UPGRADE_LOCK


def begin() -> None:
    """Take the upgrade lock, refuse a database that does not fit, and become the owner of Airflow's tables.

    Call this first in each transaction. Lock, role and settings end with the transaction, because a session's settings
    would stay on a pooled connection and reach the next client.
    """
    context.execute("SET LOCAL search_path = pg_catalog, pg_temp")
    # If a database is set to "all", PostgreSQL refuses a function with a variable that has the name of an argument.
    context.execute("SET LOCAL plpgsql.extra_errors = 'none'")
    keep_others_out()
    if context.get_context().opts["fn"].__name__ == "downgrade":
        run(sql_files.installer("begin_downgrade"))
        run(sql_files.installer("remember_objects"))
    else:
        run(sql_files.installer("refuse_upgrade"))
        run(sql_files.installer("remember_objects"))
        run(sql_files.installer("become_owner"))


def keep_others_out() -> None:
    """Take the advisory lock that makes upgrades and downgrades wait for each other until the transaction ends."""
    context.execute(f"SELECT pg_catalog.pg_advisory_xact_lock({UPGRADE_LOCK})")


@contextmanager
def outside_transaction() -> Iterator[None]:
    """Commit, run the body outside of any transaction, and begin a new transaction.

    In the body, the search path is not pinned, the role is the session's, and the upgrade lock is not held. After an
    error in the body, the caller has to end the migration.
    """
    with context.get_context().autocommit_block():
        yield


def run(path: Path, **literals: str) -> None:
    """Run a file for the shape of Airflow's tables; with ``--sql``, print it."""
    options = context.get_context().opts
    execute(sql_files.render(path, options["airflow_schema"], options["airflow_shape"], **literals))


def execute(text: str) -> None:
    """Run SQL exactly as it is; with ``--sql``, print it."""
    context.execute(sql_files.as_it_is(text.strip().removesuffix(";")))


def drop_keeping_grants(name: str) -> None:
    """Drop a function whose columns change; a revision's upgrade and downgrade call this.

    At the end of the migration, `run_objects` creates the new function and grants it to the roles that had the old one.
    """
    run(sql_files.installer("drop_keeping_grants"), name=name)


def run_objects(revision: str | None) -> None:
    """Create or replace all objects of the main branch as they are in a revision; None removes the functions.

    It does not matter which objects are there. The files replace existing objects, so that grants stay. Operators are
    granted the new objects.
    """
    run(sql_files.installer("remember_operators"))
    wanted = sql_files.objects(revision) if revision else {}
    unwanted = sorted(sql_files.objects().keys() - wanted.keys())
    if unwanted:
        run(sql_files.installer("drop_functions"), names=f"{{{','.join(unwanted)}}}")
    for path in wanted.values():
        run(path)
    run(sql_files.installer("restore_grants"))
