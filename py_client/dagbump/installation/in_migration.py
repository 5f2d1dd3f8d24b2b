"""What a migration under way does with the SQL files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import context

from dagbump.installation import sql_files
from dagbump.installation.names import UPGRADE_LOCK


def begin() -> None:
    """Keep others out, refuse what has to be refused, and go on as the owner of Airflow's tables.

    To be called first in each transaction. All of it ends with that transaction, because whatever is set for a session
    stays on a pooled connection, and the next client gets it.
    """
    context.execute("SET LOCAL search_path = pg_catalog, pg_temp")
    keep_others_out()
    if context.get_context().opts["fn"].__name__ == "downgrade":
        run(sql_files.installer("begin_downgrade"))
    else:
        run(sql_files.installer("refuse_upgrade"))
        run(sql_files.installer("become_owner"))


def keep_others_out() -> None:
    """Wait for other upgrades and downgrades, and have them wait until the transaction ends."""
    context.execute(f"SELECT pg_catalog.pg_advisory_xact_lock({UPGRADE_LOCK})")


@contextmanager
def outside_transaction() -> Iterator[None]:
    """Commit, run the body outside of any transaction, and begin again; after an error, the caller ends it all.

    In the body there is no pinned search path, no role but the session's, and no lock.
    """
    with context.get_context().autocommit_block():
        yield


def run(path: Path, **literals: str) -> None:
    """Run a file in the migration under way, for the shape of Airflow's tables; with ``--sql``, print it."""
    options = context.get_context().opts
    execute(sql_files.render(path, options["airflow_schema"], options["airflow_shape"], **literals))


def execute(text: str) -> None:
    """Run SQL in the migration under way, to the letter; with ``--sql``, print it."""
    context.execute(sql_files.as_it_is(text.strip().removesuffix(";")))


def drop_keeping_grants(name: str) -> None:
    """Drop a function whose answer gets other columns; to be called by a revision's upgrade and its downgrade.

    `run_objects`, at the end of the upgrade, makes the new one, and gives it to whoever was granted the old one.
    """
    run(sql_files.installer("drop_keeping_grants"), name=name)


def run_objects(revision: str | None) -> None:
    """Make the objects of the main branch those of a revision, whatever is there; None: remove the functions.

    The files create what is missing and replace what is there, so that grants survive; operators get what is new.
    """
    run(sql_files.installer("remember_operators"))
    wanted = sql_files.objects(revision) if revision else {}
    unwanted = sorted(sql_files.objects().keys() - wanted.keys())
    if unwanted:
        run(sql_files.installer("drop_functions"), names=f"{{{','.join(unwanted)}}}")
    for path in wanted.values():
        run(path)
    run(sql_files.installer("restore_grants"))
