"""Alembic's environment: keeps everything, the version table included, in schema ``dagbump``.

Airflow's own ``alembic_version`` is neither read nor written. An upgrade is one transaction under an advisory
lock, so that any number may be started at once, and one that is refused or cut off has written nothing.
"""

from __future__ import annotations

import logging.config

import sqlalchemy as sa
from alembic import context
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from dagbump import database
from dagbump.concurrent_index import BuiltMeanwhile
from dagbump.errors import DagbumpError, VersionMismatch, translated
from dagbump.installation import SCHEMA

config = context.config
arguments = context.get_x_argument(as_dictionary=True)
if config.config_file_name and not config.attributes.get("quiet"):
    logging.config.fileConfig(config.config_file_name, disable_existing_loggers=False)

MAIN_BRANCH = "dagbump"
CREATE_SCHEMA = f"CREATE SCHEMA {SCHEMA}"
# Any number that is nobody else's: the bytes of "dagbump".
ADVISORY_LOCK = f"SELECT pg_catalog.pg_advisory_xact_lock({int.from_bytes(b'dagbump', 'big')})"


def head_is_the_main_branchs() -> None:
    """Let ``head`` mean that of the main branch: ``alembic upgrade head`` leaves the optional index alone."""
    revisions = context.script.revision_map
    head_of = revisions.get_current_head
    revisions.get_current_head = lambda branch_label=None: head_of(branch_label or MAIN_BRANCH)  # type: ignore[method-assign]


def given_airflow_schema() -> str | None:
    return arguments.get("airflow_schema") or config.attributes.get("airflow_schema")


def find_airflow_schema(connection: sa.engine.Connection) -> str:
    """Return the first schema on the search path with a table task_instance, temporary tables left aside."""
    found = connection.scalar(
        sa.text(
            """
            SELECT path.name::text
            FROM unnest(pg_catalog.current_schemas(false)) WITH ORDINALITY AS path (name, place)
            JOIN pg_catalog.pg_namespace AS namespace ON namespace.nspname = path.name
            JOIN pg_catalog.pg_class AS class ON class.relnamespace = namespace.oid
            WHERE class.relname = 'task_instance' AND class.relkind IN ('r', 'p')
            ORDER BY path.place
            LIMIT 1
            """
        )
    )
    return found or "public"  # the migration says that it is not there either


def refuse_newer() -> None:
    """Raise where the database holds a revision that these migrations do not bring."""
    script = ScriptDirectory.from_config(config)
    for revision in context.get_context().get_current_heads():
        try:
            script.get_revision(revision)
        except CommandError:
            raise VersionMismatch(
                f"a newer dagbump is installed in this database: its revision {revision} is unknown here; "
                "use that release of the package, or a later one."
            ) from None


def migrate(connection: sa.engine.Connection) -> None:
    airflow_schema = given_airflow_schema() or find_airflow_schema(connection)
    connection.rollback()  # the search began a transaction; the one that follows is Alembic's
    context.configure(connection=connection, version_table_schema=SCHEMA, airflow_schema=airflow_schema)
    migration = context.get_context()
    if migration.opts.get("dont_mutate"):  # alembic current, alembic check
        context.run_migrations()
        return
    with context.begin_transaction():
        connection.execute(sa.text(ADVISORY_LOCK))
        refuse_newer()
        if connection.scalar(sa.text(f"SELECT pg_catalog.to_regnamespace('{SCHEMA}')")) is None:
            connection.execute(sa.text(CREATE_SCHEMA))
        context.run_migrations()
        if not migration.get_current_heads():
            remove_version_table_and_schema()


def remove_version_table_and_schema() -> None:
    """Leave no trace after a downgrade to base; refuses where somebody has put something of theirs in the schema."""
    context.execute(f"DROP TABLE IF EXISTS {SCHEMA}.alembic_version")
    context.execute(f"DROP SCHEMA {SCHEMA}")


def run_online() -> None:
    try:
        engine = config.attributes.get("engine") or database.create_engine(
            database.find_url(arguments.get("url") or config.get_main_option("sqlalchemy.url"))
        )
        with database.connect(engine) as connection, translated():
            try:
                migrate(connection)
            except BuiltMeanwhile:
                migrate(connection)
    except DagbumpError as error:
        raise CommandError(str(error)) from error


def run_offline() -> None:
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},
        literal_binds=True,
        version_table_schema=SCHEMA,
        airflow_schema=given_airflow_schema() or "public",
    )
    with context.begin_transaction():
        context.execute(ADVISORY_LOCK)
        if context.get_starting_revision_argument() is None:
            context.execute(CREATE_SCHEMA)
        context.run_migrations()
        if context.get_revision_argument() is None and "index" not in str(context.get_starting_revision_argument()):
            remove_version_table_and_schema()


head_is_the_main_branchs()
if context.is_offline_mode():
    run_offline()
else:
    run_online()
