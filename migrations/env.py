"""The Alembic environment, which keeps all objects, including its version table, in schema ``dagbump``.

Airflow's own ``alembic_version`` is neither read nor written. An upgrade is one transaction under an advisory lock. So
any number of upgrades may start at once, and one that is refused or interrupted has written nothing. An upgrade checks
the database, becomes the owner of Airflow's tables, and runs the revisions. Then it creates or replaces every object as
it is in the revision reached, whatever was there before.
"""

from __future__ import annotations

import logging.config

import sqlalchemy as sa
from alembic import context
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from dagbump import __version__, database
from dagbump.errors import DagbumpError, VersionMismatch, translated
from dagbump.installation import concurrent_index, migration_steps, shapes, sql_files, state
from dagbump.installation.names import INDEX, LONGEST_NAME, SCHEMA

MAIN_BRANCH, INDEX_BRANCH = "dagbump", "index"

config = context.config
arguments = context.get_x_argument(as_dictionary=True)
log = logging.getLogger("alembic.dagbump")
if config.config_file_name and not config.attributes.get("quiet"):
    logging.config.fileConfig(config.config_file_name, disable_existing_loggers=False)
script = ScriptDirectory.from_config(config)


def head_is_the_main_branchs() -> None:
    """Make ``head`` mean the head of the main branch, so that ``alembic upgrade head`` does not build the index."""
    revisions = context.script.revision_map
    head_of = revisions.get_current_head
    revisions.get_current_head = lambda branch_label=None: head_of(branch_label or MAIN_BRANCH)  # type: ignore[method-assign]


def given_airflow_schema() -> str | None:
    named: str | None = arguments.get("airflow_schema", config.attributes.get("airflow_schema"))
    if named is not None and not named.strip():
        raise CommandError("-x airflow_schema= is empty: name the schema of Airflow's tables, or leave it out")
    if named is not None and len(named.encode()) > LONGEST_NAME:
        raise CommandError(f"-x airflow_schema: a name in PostgreSQL has at most {LONGEST_NAME} bytes")
    return named


def given_airflow_shape() -> shapes.Shape:
    """Return the shape of Airflow's tables for a script."""
    key: str = arguments.get("airflow_shape", config.attributes.get("airflow_shape")) or shapes.FIRST.key
    try:
        return shapes.of_key(key)
    except ValueError as error:
        raise CommandError(f"-x airflow_shape: {error}") from None


def of_main_branch(revision: str | None) -> bool:
    found = script.get_revision(revision) if revision else None
    return found is not None and MAIN_BRANCH in found.branch_labels


def refuse_newer(heads: tuple[str, ...]) -> None:
    """Raise if the database has a revision that these migrations do not have."""
    for revision in heads:
        try:
            script.get_revision(revision)
        except CommandError:
            raise VersionMismatch(
                f"a newer dagbump is installed in this database: its revision {revision} is unknown here; "
                "use that release of the package, or a later one."
            ) from None


def forget_an_index_that_is_not_there(connection: sa.engine.Connection) -> None:
    """Delete the record of an index that is missing, invalid or outdated.

    Set the attribute ``index_is_lost`` if a migration of Airflow is the cause, so that the caller builds the index
    again. That is so if the index is there but outdated, recorded or not, or if it was recorded and was dropped with
    Airflow's old tables.
    """
    heads = context.get_context().get_current_heads()
    recorded = [head for head in heads if INDEX_BRANCH in script.get_revision(head).branch_labels]
    options = context.get_context().opts
    found = state.optional_index(connection, options["airflow_schema"])
    config.attributes["index_is_lost"] = found is state.OptionalIndex.OUTDATED
    if recorded and found is not state.OptionalIndex.VALID:
        log.warning("The index %s was recorded, but is missing or not valid; index@head builds it again.", INDEX)
        delete = sa.text(f"DELETE FROM {SCHEMA}.alembic_version WHERE version_num = :revision")  # noqa: S608  (a constant)
        connection.execute(delete, {"revision": recorded[0]})
        before = connection.scalar(sa.text("SELECT airflow_shape FROM dagbump.installation"))
        config.attributes["index_is_lost"] |= before != options["airflow_shape"].key


def install_objects(revision: str) -> None:
    """Create or replace every object as it is in this revision, and record the revision."""
    migration_steps.run_objects(revision)
    walk = script.iterate_revisions(revision, "base")
    breaking = [step.revision for step in walk if getattr(step.module, "breaks_older_packages", False)]
    migration_steps.run(
        sql_files.installer("record"),
        revision=revision,
        works_with_packages_from=max(breaking, default=first_revision()),
        release=__version__,
    )


def first_revision() -> str:
    return min(step.revision for step in script.walk_revisions() if of_main_branch(step.revision))


def remove_index(connection: sa.engine.Connection) -> None:
    """Drop an index that is not recorded."""
    if concurrent_index.is_left(connection):
        concurrent_index.drop()


def remove_everything() -> None:
    """Remove everything at a downgrade to base; PostgreSQL refuses if the schema has other objects."""
    migration_steps.run_objects(None)
    # Logical replication sends TRUNCATE but not DROP TABLE. Without the TRUNCATE, the subscriber would keep the row.
    # The row of a later upgrade would conflict with it, and the subscription would stop.
    context.execute(
        f"DO $$ BEGIN IF pg_catalog.to_regclass('{SCHEMA}.installation') IS NOT NULL THEN "
        f"TRUNCATE {SCHEMA}.installation; END IF; END $$"
    )
    for table in ("history", "installation", "alembic_version"):
        context.execute(f"DROP TABLE IF EXISTS {SCHEMA}.{table}")
    context.execute(f"DROP SCHEMA {SCHEMA}")


def migrate(connection: sa.engine.Connection) -> None:
    airflow_schema = state.find_airflow_schema(connection, given_airflow_schema())
    airflow_shape = state.airflow_shape(connection, airflow_schema)
    config.attributes["connection"] = connection
    config.attributes["backend_pid"] = connection.scalar(sa.text("SELECT pg_catalog.pg_backend_pid()"))
    connection.rollback()  # end the transaction of these queries, because Alembic begins its own
    context.configure(
        connection=connection,
        version_table_schema=SCHEMA,
        airflow_schema=airflow_schema,
        airflow_shape=airflow_shape,
    )
    migration = context.get_context()
    if migration.opts.get("dont_mutate"):  # alembic current, alembic check
        state.find_ours(connection, airflow_schema)
        context.run_migrations()
        return
    going_down = migration.opts["fn"].__name__ == "downgrade"
    with context.begin_transaction():
        migration_steps.begin()
        if going_down and connection.scalar(sa.text(f"SELECT pg_catalog.to_regnamespace('{SCHEMA}')")) is None:
            remove_index(connection)
            return
        before = migration.get_current_heads()
        refuse_newer(before)
        if not going_down:
            forget_an_index_that_is_not_there(connection)
        context.run_migrations()
        heads = migration.get_current_heads()
        if going_down and not heads:
            remove_index(connection)
            remove_everything()
        for head in filter(of_main_branch, heads):
            if not going_down or head not in before:
                install_objects(head)


def run_online() -> None:
    try:
        engine = config.attributes.get("engine") or database.create_engine(
            database.find_url(arguments.get("url", config.get_main_option("sqlalchemy.url"))),
            trust_owner=arguments.get("trust_owner") == "1",
        )
        with database.connect(engine, given_airflow_schema()) as connection, translated():
            try:
                migrate(connection)
            except concurrent_index.BuiltMeanwhile:
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
        airflow_shape=given_airflow_shape(),
    )
    going_down = context.get_context().opts["fn"].__name__ == "downgrade"
    # If a check fails, psql must stop, so that it does not run CREATE INDEX CONCURRENTLY outside the transaction.
    context.static_output("\\set ON_ERROR_STOP on")
    with context.begin_transaction():
        migration_steps.begin()
        context.run_migrations()
        reached = context.get_revision_argument()
        for revision in (reached,) if isinstance(reached, str) else reached or ():
            if of_main_branch(revision):
                install_objects(revision)
        if going_down and reached is None and "index" not in str(context.get_starting_revision_argument()):
            concurrent_index.drop()
            remove_everything()


head_is_the_main_branchs()
if context.is_offline_mode():
    run_offline()
else:
    run_online()
