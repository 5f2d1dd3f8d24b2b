"""What a migration under way does with the SQL files."""

from __future__ import annotations

from pathlib import Path

from alembic import context

from dagbump.installation import sql_files


def run(path: Path, **literals: str) -> None:
    """Run a file in the migration under way, for the shape of Airflow's tables; with ``--sql``, print it."""
    options = context.get_context().opts
    path = sql_files.for_shape(path, options["airflow_shape"])
    execute(sql_files.render(path, options["airflow_schema"], **literals))


def execute(text: str) -> None:
    """Run SQL in the migration under way, to the letter; with ``--sql``, print it."""
    context.execute(sql_files.as_it_is(text.strip().removesuffix(";")))


def drop_keeping_grants(name: str) -> None:
    """Drop a function whose answer gets other columns; to be called by a revision's upgrade and its downgrade.

    `run_objects`, at the end of the upgrade, makes the new one, and gives it to whoever was granted the old one.
    """
    run(sql_files.installer("drop_keeping_grants"), name=name)


def run_objects(revision: str | None, migrations: Path) -> None:
    """Make the objects of the main branch those of a revision, whatever is there; None: remove the functions.

    The files create what is missing and replace what is there, so that grants survive; operators get what is new.
    """
    run(sql_files.installer("remember_operators"))
    wanted = sql_files.objects(revision, migrations) if revision else {}
    unwanted = sorted(sql_files.objects(None, migrations).keys() - wanted.keys())
    if unwanted:
        run(sql_files.installer("drop_functions"), names=f"{{{','.join(unwanted)}}}")
    for path in wanted.values():
        run(path)
    run(sql_files.installer("restore_grants"))
