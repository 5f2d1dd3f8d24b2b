"""`dagbump` and plain `alembic` install and remove the same, and either all of it or nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dagbump
import psycopg
import pytest
from dagbump import database as dagbump_database
from dagbump.installation import installer, shapes, state
from psycopg import sql
from sqlalchemy.engine import URL, Engine
from support.fleet import Fleet
from support.processes import ALEMBIC, DAGBUMP, command
from support.releases import environments
from support.server import Server, dump_schema, libpq, run_client

pytestmark = pytest.mark.server


def engine(url: URL) -> Engine:
    return dagbump_database.create_engine(libpq(url))


def run(words: Sequence[str], url: URL | None = None) -> subprocess.CompletedProcess[str]:
    return command(*words) if url is None else command(*words, DAGBUMP_URL=libpq(url))


def ok(words: Sequence[str], url: URL | None = None) -> str:
    done = run(words, url)
    assert done.returncode == 0, done.stderr
    return done.stdout


def query(url: URL, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(libpq(url)) as connection:
        return connection.execute(statement.encode()).fetchall()


def do(url: URL, statements: str) -> None:
    with psycopg.connect(libpq(url)) as connection:
        connection.execute(statements.encode())


@pytest.fixture(params=[pytest.param("dagbump", marks=pytest.mark.pair), "alembic"])
def upgrade_and_downgrade(request: pytest.FixtureRequest) -> tuple[list[str], list[str]]:
    if request.param == "dagbump":
        return [*DAGBUMP, "upgrade"], [*DAGBUMP, "downgrade"]
    return [*ALEMBIC, "upgrade", "head"], [*ALEMBIC, "downgrade", "base"]


def test_upgrade_installs_and_downgrade_leaves_no_trace(
    airflow_database: URL, upgrade_and_downgrade: tuple[list[str], list[str]]
) -> None:
    upgrade, downgrade = upgrade_and_downgrade
    before = dump_schema(airflow_database)
    airflows_revision = query(airflow_database, "SELECT * FROM public.alembic_version")

    ok(upgrade, airflow_database)
    assert query(airflow_database, "SELECT version_num FROM dagbump.alembic_version") == [(state.NEWEST_REVISION,)]
    assert query(airflow_database, "SELECT * FROM dagbump.bump()") == []
    ok(upgrade, airflow_database)  # again: nothing to do
    assert query(airflow_database, "SELECT * FROM public.alembic_version") == airflows_revision

    ok(downgrade, airflow_database)
    assert dump_schema(airflow_database) == before
    ok(downgrade, airflow_database)  # again: nothing to do
    assert dump_schema(airflow_database) == before


def test_both_ways_install_the_same(airflow_database: URL, postgres: Server, airflow_template: str) -> None:
    ok([*DAGBUMP, "upgrade"], airflow_database)
    with postgres.temporary_database(airflow_template) as other:
        ok([*ALEMBIC, "upgrade", "head"], other)
        assert dump_schema(airflow_database) == dump_schema(other)


@pytest.mark.pair
def test_the_printed_scripts_apply_with_psql_and_do_the_same(airflow_database: URL, database: URL) -> None:
    before = dump_schema(airflow_database)

    upgrade = ok([*DAGBUMP, "upgrade", "--sql", *FOR_THESE_TABLES])
    run_client("psql", airflow_database, "--no-psqlrc", "--set=ON_ERROR_STOP=1", stdin=upgrade)
    assert dump_schema(airflow_database) == dump_schema(database)

    downgrade = ok([*DAGBUMP, "downgrade", "--sql", *FOR_THESE_TABLES])
    run_client("psql", airflow_database, "--no-psqlrc", "--set=ON_ERROR_STOP=1", stdin=downgrade)
    assert dump_schema(airflow_database) == before


def test_the_printed_script_refuses_as_the_upgrade_does(empty_database: URL) -> None:
    script = ok([*ALEMBIC, "upgrade", "head", "--sql"])
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run_client("psql", empty_database, "--no-psqlrc", "--set=ON_ERROR_STOP=1", stdin=script)
    assert "no Airflow tables" in failed.value.stderr
    assert query(empty_database, "SELECT to_regnamespace('dagbump')") == [(None,)]


def test_the_locale_does_not_matter() -> None:
    done = command(*DAGBUMP, "upgrade", "--sql", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "FUNCTION dagbump.bump" in done.stdout


@pytest.mark.slow
def test_ten_upgrades_at_once_end_with_one_installation(airflow_database: URL, database: URL) -> None:
    with ThreadPoolExecutor(10) as pool:
        runs = list(pool.map(lambda _: run([*DAGBUMP, "upgrade"], airflow_database), range(10)))

    assert [done.returncode for done in runs] == [0] * 10, [done.stderr for done in runs]
    assert dump_schema(airflow_database) == dump_schema(database)


# A script is for the tables that it is said to be for.
FOR_THESE_TABLES = ("--airflow-shape", environments.shape().key)

NAMES = [
    "airflow",
    'It\'s "Air flow"; --',
    "100%s",
    ":schema",
    "@airflow_schema_literal@",
    "a$bump$b$preview$",
    "back\\slash",
]


@pytest.mark.parametrize("schema", NAMES)
def test_airflows_tables_may_be_in_another_schema(airflow_database: URL, schema: str) -> None:
    with psycopg.connect(libpq(airflow_database), autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER SCHEMA public RENAME TO {}").format(sql.Identifier(schema)))
        connection.execute("CREATE SCHEMA public")
        before = dump_schema(airflow_database)
        installer.upgrade(engine(airflow_database), airflow_schema=schema)
        installer.upgrade(engine(airflow_database), installer.NEWEST_INDEX, schema)
        valid = (
            "SELECT indisvalid FROM pg_index JOIN pg_class ON oid = indexrelid WHERE relname = 'dagbump_ti_unfinished'"
        )
        assert connection.execute(valid).fetchall() == [(True,)]

        fleet = Fleet(connection, schema)
        old, new = fleet.dag("d", versions=2)
        run = fleet.run("d")
        fleet.ti(run, new, "success")
        fleet.ti(run, old, "queued")
        assert dagbump.preview(connection)[0].verdict == "bump"
        assert dagbump.bump(connection).bumped == 1

    installer.downgrade(engine(airflow_database))
    assert dump_schema(airflow_database) == before


def test_airflows_schema_is_found_on_the_search_path(airflow_database: URL) -> None:
    with psycopg.connect(libpq(airflow_database), autocommit=True) as connection:
        connection.execute("ALTER SCHEMA public RENAME TO airflow")
        connection.execute("CREATE SCHEMA public")
    on_path = airflow_database.update_query_dict({"options": "-csearch_path=public,airflow"})

    installer.upgrade(engine(on_path))
    assert query(airflow_database, "SELECT * FROM dagbump.bump()") == []


@pytest.fixture
def empty_database(postgres: Server) -> Iterator[URL]:
    with postgres.temporary_database() as url:
        yield url


class TestRefusals:
    """Each refusal says what is wrong and what to do, exits with 4 (or 1), and writes nothing."""

    def refused(self, url: URL, *options: str, code: int = 4) -> str:
        before = dump_schema(url)
        by_dagbump = run([*DAGBUMP, "upgrade", *options], url)
        by_alembic = run([*ALEMBIC, "upgrade", "head"], url)

        assert by_dagbump.returncode == code
        assert by_alembic.returncode != 0
        assert "Traceback" not in by_dagbump.stderr + by_alembic.stderr
        assert dump_schema(url) == before
        return by_dagbump.stderr

    def test_not_postgresql(self) -> None:
        for words in ([*DAGBUMP, "upgrade"], [*ALEMBIC, "upgrade", "head"]):
            done = command(*words, DAGBUMP_URL="mysql+pymysql://airflow:secret@db/airflow")
            assert done.returncode != 0
            assert "PostgreSQL only" in done.stderr
            assert "secret" not in done.stderr
            assert "Traceback" not in done.stderr

    def test_no_airflow_tables(self, empty_database: URL) -> None:
        assert "no Airflow tables" in self.refused(empty_database)

    def test_a_schema_that_is_not_there(self, airflow_database: URL) -> None:
        before = dump_schema(airflow_database)
        with pytest.raises(dagbump.UnsupportedAirflow, match='schema "elsewhere"'):
            installer.upgrade(engine(airflow_database), airflow_schema="elsewhere")
        assert dump_schema(airflow_database) == before

    def test_airflow_2(self, empty_database: URL) -> None:
        with psycopg.connect(libpq(empty_database)) as connection:
            for table in ("task_instance", "dag_run", "dag", "serialized_dag"):
                connection.execute(f"CREATE TABLE {table} (dag_id text, run_id text, state text)".encode())
        assert "Airflow 2" in self.refused(empty_database)

    def test_a_release_that_lacks_a_column(self, airflow_database: URL) -> None:
        """For example Airflow 3.5, which does not exist yet."""
        with psycopg.connect(libpq(airflow_database)) as connection:
            connection.execute("ALTER TABLE dag_run RENAME run_after TO something_else")
        said = self.refused(airflow_database)
        assert f"are not as in Airflow {environments.shape().label}; missing: dag_run.run_after" in said
        assert "Look for a newer dagbump that knows this Airflow" in said

    def test_a_script_for_other_tables(self, airflow_database: URL) -> None:
        other = next(shape for shape in shapes.SHAPES if shape is not environments.shape())
        script = ok([*DAGBUMP, "upgrade", "--sql", "--airflow-shape", other.key])
        before = dump_schema(airflow_database)
        with pytest.raises(subprocess.CalledProcessError) as failed:
            run_client("psql", airflow_database, "--no-psqlrc", "--set=ON_ERROR_STOP=1", stdin=script)
        assert f"are not as in Airflow {other.label}; missing: " in failed.value.stderr
        assert "fits only the tables that --airflow-shape names" in failed.value.stderr
        assert dump_schema(airflow_database) == before

    def test_tables_that_are_not_plain(self, airflow_database: URL) -> None:
        """A row's address, by which bump writes, is unique in one physical table only."""
        do(airflow_database, "CREATE TABLE archive () INHERITS (task_instance)")
        assert "not plain tables, but partitioned, inherited or views: task_instance" in self.refused(airflow_database)
        do(
            airflow_database,
            "DROP TABLE archive; ALTER TABLE dag_version RENAME TO versions; "
            "CREATE VIEW dag_version AS SELECT * FROM versions",
        )
        assert "not plain tables, but partitioned, inherited or views: dag_version" in self.refused(airflow_database)

    def test_a_newer_dagbump(self, database: URL) -> None:
        with psycopg.connect(libpq(database)) as connection:
            connection.execute("UPDATE dagbump.alembic_version SET version_num = '9999'")
        assert "newer dagbump is installed" in self.refused(database)
        assert query(database, "SELECT version_num FROM dagbump.alembic_version") == [("9999",)]

    def test_something_of_somebody_elses_in_the_schema_stops_a_downgrade(self, database: URL) -> None:
        with psycopg.connect(libpq(database)) as connection:
            connection.execute("CREATE TABLE dagbump.notes (note text)")
        before = dump_schema(database)
        done = run([*DAGBUMP, "downgrade"], database)
        assert done.returncode == 1
        assert "depend" in done.stderr
        assert dump_schema(database) == before


def test_alembic_current_writes_nothing(airflow_database: URL) -> None:
    before = dump_schema(airflow_database)
    assert ok([*ALEMBIC, "current"], airflow_database).strip() == ""
    assert dump_schema(airflow_database) == before


def test_an_upgrade_that_fails_half_way_has_written_nothing(airflow_database: URL) -> None:
    """An event trigger refuses one of the last functions."""
    do(
        airflow_database,
        """
        CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity LIKE 'dagbump.versions(%') THEN
                RAISE 'no versions here';
            END IF;
        END $$;
        CREATE EVENT TRIGGER refuse ON ddl_command_end EXECUTE FUNCTION refuse()
        """,
    )
    before = dump_schema(airflow_database)
    done = run([*DAGBUMP, "upgrade"], airflow_database)
    assert done.returncode == 1
    assert "no versions here" in done.stderr
    assert dump_schema(airflow_database) == before


@pytest.mark.once
class TestWhatIsThereCountsNotWhatIsRecorded:
    """Every upgrade looks at every object, and repairs it."""

    @pytest.mark.parametrize(
        "damage",
        [
            "DROP FUNCTION dagbump.preview",
            "DROP TABLE dagbump.installation",
            "DELETE FROM dagbump.installation",
            "DELETE FROM dagbump.alembic_version",  # as a restore of the schema only has it
            "ALTER FUNCTION dagbump.bump RESET search_path",
            "GRANT EXECUTE ON FUNCTION dagbump.bump TO PUBLIC",
            "COMMENT ON FUNCTION dagbump.bump IS NULL",
            "CREATE OR REPLACE FUNCTION dagbump.help(topic text DEFAULT NULL) RETURNS SETOF text "
            "LANGUAGE sql AS 'SELECT topic'",
        ],
    )
    def test_an_upgrade_mends(self, database: URL, damage: str) -> None:
        before = dump_schema(database)
        do(database, damage)
        assert "is installed" in ok([*DAGBUMP, "upgrade"], database)
        assert dump_schema(database) == before
        assert query(database, "SELECT count(*) FROM dagbump.installation") == [(1,)]

    def test_the_printed_way_back_removes_the_index_alone(self, database: URL) -> None:
        before = dump_schema(database)
        installer.upgrade(engine(database), installer.NEWEST_INDEX)
        script = ok([*DAGBUMP, "downgrade", "--sql", "index@base", *FOR_THESE_TABLES])
        run_client("psql", database, "--no-psqlrc", "--quiet", stdin=script)
        assert dump_schema(database) == before

    def test_the_printed_way_back_removes_the_index_too(self, database: URL, airflow_database: URL) -> None:
        installer.upgrade(engine(database), installer.NEWEST_INDEX)
        script = ok([*DAGBUMP, "downgrade", "--sql", *FOR_THESE_TABLES])
        run_client("psql", database, "--no-psqlrc", "--quiet", stdin=script)
        assert dump_schema(database) == dump_schema(airflow_database)

    def test_an_index_that_nothing_leads_to_any_more_is_removed(self, database: URL, airflow_database: URL) -> None:
        installer.upgrade(engine(database), installer.NEWEST_INDEX)
        do(database, "DROP SCHEMA dagbump CASCADE")
        ok([*DAGBUMP, "downgrade"], database)
        assert dump_schema(database) == dump_schema(airflow_database)

    def test_a_schema_only_restore_can_be_removed(self, database: URL, airflow_database: URL) -> None:
        do(database, "DELETE FROM dagbump.alembic_version; DELETE FROM dagbump.installation")
        ok([*DAGBUMP, "downgrade"], database)
        assert dump_schema(database) == dump_schema(airflow_database)

    def test_an_upgrade_keeps_grants(self, database: URL) -> None:
        do(database, "CREATE ROLE dagbump_test_grantee; GRANT EXECUTE ON FUNCTION dagbump.bump TO dagbump_test_grantee")
        before = dump_schema(database)
        try:
            ok([*DAGBUMP, "upgrade"], database)
            assert "dagbump_test_grantee" in before
            assert dump_schema(database) == before
        finally:
            do(database, "DROP OWNED BY dagbump_test_grantee; DROP ROLE dagbump_test_grantee")

    def test_airflows_schema_was_renamed(self, database: URL) -> None:
        installer.upgrade(engine(database), installer.NEWEST_INDEX)
        with psycopg.connect(libpq(database), autocommit=True) as connection:
            connection.execute("ALTER SCHEMA public RENAME TO airflow")
            with pytest.raises(dagbump.UnsupportedAirflow, match="run `dagbump upgrade`"):
                dagbump.bump(connection)
            assert run([*DAGBUMP, "preview"], database).returncode == 4
            ok([*DAGBUMP, "upgrade", "--airflow-schema", "airflow"], database)
            assert dagbump.bump(connection).runs == ()

    def test_airflows_schema_was_renamed_and_a_downgrade_removes_the_index_too(
        self, database: URL, airflow_database: URL
    ) -> None:
        installer.upgrade(engine(database), installer.NEWEST_INDEX)
        for url in (database, airflow_database):
            do(url, "ALTER SCHEMA public RENAME TO airflow")
        assert "not installed" in ok([*DAGBUMP, "downgrade"], database)
        assert dump_schema(database) == dump_schema(airflow_database)

    def test_airflow_was_migrated_to_a_release_that_is_not_known(self, database: URL) -> None:
        do(database, "ALTER TABLE dag_run RENAME run_after TO something_else")
        done = run([*DAGBUMP, "upgrade"], database)
        assert done.returncode == 4
        assert "missing: dag_run.run_after" in done.stderr
        assert run([*DAGBUMP, "downgrade"], database).returncode == 0


def test_a_refused_script_builds_no_index(airflow_database: URL) -> None:
    """psql runs it without ON_ERROR_STOP."""
    do(airflow_database, "ALTER TABLE dag_run RENAME run_after TO something_else")
    before = dump_schema(airflow_database)
    script = ok([*DAGBUMP, "upgrade", "--sql", "--with-index", *FOR_THESE_TABLES])
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        run_client("psql", airflow_database, "--no-psqlrc", "--quiet", stdin=script)
    assert dump_schema(airflow_database) == before


def test_a_database_of_no_encoding(postgres: Server, airflow_template: str) -> None:
    """Text comes as bytes from an SQL_ASCII database to a client that asks for no other encoding."""
    postgres.drop_database("no_encoding")
    with postgres.maintenance() as connection:
        connection.execute(
            "CREATE DATABASE no_encoding TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
        )
    url = postgres.database("no_encoding")
    run_client("psql", url, "--quiet", "--no-psqlrc", stdin=dump_schema(postgres.database(airflow_template)))
    for words in (["upgrade"], ["preview"]):
        ok([*DAGBUMP, *words], url)
    with psycopg.connect(libpq(url), autocommit=True, client_encoding="SQL_ASCII") as connection:
        connection.execute("INSERT INTO dag_bundle (name) VALUES ('b')")
        column, value = (", span_status", ", ''") if environments.number() < (3, 4) else ("", "")
        connection.execute(
            f"INSERT INTO dag_run (dag_id, run_id, run_type, state, run_after{column}) "
            f"VALUES ('d', 'r', 'manual', 'running', now(){value})"
        )
        connection.execute(
            f"INSERT INTO task_instance (id, dag_id, run_id, task_id, pool, pool_slots, try_number, max_tries{column}) "
            f"VALUES (gen_random_uuid(), 'd', 'r', 't', '', 1, 1, 0{value})"
        )
        (row,) = dagbump.preview(connection)
        assert (row.dag_id, row.run_id, row.verdict) == ("d", "r", "no_version")
    ok([*DAGBUMP, "downgrade"], url)
    postgres.drop_database("no_encoding")


def test_quoted_identifiers_change_nothing(database: URL) -> None:
    quoting = database.update_query_dict({"options": "-cquote_all_identifiers=on"})
    for words in (["upgrade"], ["preview"], ["upgrade"], ["bump"], ["downgrade"]):
        ok([*DAGBUMP, *words], quoting)


def test_the_strictest_compiler_of_plpgsql_takes_every_function(database: URL) -> None:
    strict = database.update_query_dict({"options": "-cplpgsql.extra_errors=all"})
    for words in (["upgrade"], ["check"], ["preview"], ["bump"], ["repair", "--yes"], ["downgrade"]):
        ok([*DAGBUMP, *words], strict)


@pytest.mark.once
class TestTwoAirflowsInOneDatabase:
    """A database has one dagbump, for one Airflow. A second Airflow's upgrade does not change it."""

    @pytest.fixture
    def second(self, database: URL, postgres: Server, airflow_template: str) -> str:
        """The schema of another Airflow, beside the one that dagbump works on."""
        dump = run_client("pg_dump", postgres.database(airflow_template), "--schema-only", "--schema=public")
        text = dump.replace("public.", "second.").replace("CREATE SCHEMA public", "CREATE SCHEMA second")
        text = text.replace("SCHEMA public", "SCHEMA second")
        run_client("psql", database, "--no-psqlrc", "--quiet", stdin=f"CREATE SCHEMA IF NOT EXISTS second;\n{text}")
        assert query(database, "SELECT to_regclass('second.task_instance') IS NOT NULL") == [(True,)]
        return "second"

    def test_is_refused_by_name(self, database: URL, second: str) -> None:
        for words in (["upgrade"], ["downgrade"]):
            done = run([*DAGBUMP, *words, "--airflow-schema", second], database)
            assert done.returncode == 4
            assert (
                'installed in this database for the Airflow in schema "public", not for that in "second"' in done.stderr
            )

    @pytest.mark.parametrize("words", [["upgrade"], ["downgrade"], ["preview"], ["bump"], ["run"]])
    def test_is_refused_where_its_path_says_so(self, database: URL, second: str, words: list[str]) -> None:
        on_path = database.update_query_dict({"options": f"-csearch_path={second}"})
        before = dump_schema(database)
        done = run([*DAGBUMP, *words], on_path)
        assert done.returncode == 4, done.stderr
        assert '"second"' in done.stderr
        assert dump_schema(database) == before

    def test_who_means_the_first_says_so(self, database: URL, second: str) -> None:
        on_path = database.update_query_dict({"options": f"-csearch_path={second}"})
        for words in (["preview"], ["bump"], ["upgrade"]):
            ok([*DAGBUMP, *words, "--airflow-schema", "public"], on_path)
