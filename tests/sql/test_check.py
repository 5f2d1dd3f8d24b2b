"""dagbump.check() and `dagbump check`: what is ok, and what the detail says if it is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import dagbump
import psycopg
import pytest
from dagbump.command_line.tables import WRONG
from dagbump.database import create_engine
from dagbump.installation import checking, installer
from psycopg import sql
from rich.style import Style
from sqlalchemy.engine import URL
from support import airflow_tables
from support.fleet import Fleet
from support.processes import DAGBUMP, command, on_terminal, running
from support.releases import environments
from support.server import Connect, Server, dump_schema, embedded, libpq
from support.waits import until

pytestmark = pytest.mark.tables

ITEMS = [
    "server",
    "installation",
    "functions",
    "history",
    "airflow tables",
    "column types",
    "plain tables",
    "keys",
    "optional index",
    "triggers",
    "owner",
    "owner's rights",
    "grants",
    "version order",
    "statistics",
]


def checked(connection: psycopg.Connection[Any]) -> dict[str, dagbump.CheckItem]:
    return {item.item: item for item in dagbump.check(connection)}


def wrong(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """Return the details of the items that are not ok."""
    return {name: item.detail for name, item in checked(connection).items() if not item.ok}


def run(url: URL, *, code: int) -> dict[str, dagbump.CheckItem]:
    """Do what `dagbump check` does, in this process; return its items by name."""
    with create_engine(libpq(url)).connect() as connection:
        report = checking.look(connection)
    assert report.exit_code == code, report.items
    return {item.item: item for item in report.items}


@pytest.mark.pair
def test_all_is_ok_after_an_upgrade(connection: psycopg.Connection[Any]) -> None:
    """On the tables of the Airflow release that the tests run with."""
    items = dagbump.check(connection)
    assert [item.item for item in items] == ITEMS
    assert [item for item in items if not item.ok] == []


@pytest.mark.parametrize("setting", ["quote_all_identifiers = on", "standard_conforming_strings = off"])
def test_settings_of_the_session_change_nothing(connection: psycopg.Connection[Any], setting: str) -> None:
    connection.execute(f"SET LOCAL {setting}".encode())
    assert wrong(connection) == {}


def test_it_runs_in_a_read_only_transaction(connection: psycopg.Connection[Any]) -> None:
    connection.execute("SET TRANSACTION READ ONLY")
    assert len(dagbump.check(connection)) == len(ITEMS)
    locks = connection.execute(
        "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'task_instance'::regclass"
    ).fetchone()
    assert locks == (0,)


@pytest.mark.once
def test_a_hot_standby() -> None:
    """For the owner and for an operator. A server of its own becomes a standby by a file and a restart."""
    with embedded() as postgres:
        url = airflow_tables.make_in_embedded(postgres)
        installer.upgrade(create_engine(libpq(url)))
        with psycopg.connect(libpq(url)) as connection:
            connection.execute("CREATE ROLE operator; SELECT dagbump.grant_operator('operator')")
        (postgres.data_directory / "standby.signal").touch()
        postgres.restart()
        for role in ("", "-crole=operator"):
            url = url.update_query_dict({"options": role})
            assert "a hot standby" in run(url, code=0)["server"].detail
            with psycopg.connect(libpq(url)) as connection:
                assert dagbump.preview(connection) == ()


# What somebody does to the database, the item that is not ok then, and what its detail says.
DAMAGES = {
    "a body edited by hand": (
        "CREATE OR REPLACE FUNCTION dagbump.help(topic text DEFAULT NULL) RETURNS SETOF text "
        "LANGUAGE sql AS 'SELECT topic'",
        "functions",
        "changed: dagbump.help(text). `dagbump upgrade`",
    ),
    "a setting taken away": ("ALTER FUNCTION dagbump.bump RESET search_path", "functions", "changed: dagbump.bump("),
    "a call that does nothing": ("ALTER FUNCTION dagbump.bump STRICT", "functions", "changed: dagbump.bump("),
    "another default": (
        "DO $$ BEGIN EXECUTE "
        "replace(pg_get_functiondef('dagbump.bump'::regproc), 'DEFAULT false', 'DEFAULT true'); END $$",
        "functions",
        "changed: dagbump.bump(",
    ),
    "no history": (
        "DROP TABLE dagbump.history",
        "history",
        "dagbump.history is missing, and without it nothing is moved",
    ),
    "a history altered": (
        "ALTER TABLE dagbump.history ALTER dag_id SET NOT NULL",
        "history",
        "nothing is moved: dag_id. Run `dagbump upgrade`",
    ),
    "a function dropped": ("DROP FUNCTION dagbump.preview", "functions", "missing: dagbump.preview("),
    "a function added": (
        "CREATE FUNCTION dagbump.bump(text) RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
        "functions",
        "not of this release: dagbump.bump(text)",
    ),
    "a restore of a part": ("DELETE FROM dagbump.installation", "installation", "Run `dagbump upgrade`"),
    "a table restored without": ("DROP TABLE dagbump.installation", "installation", "Run `dagbump upgrade`"),
    "Airflow migrated under it": (
        "ALTER TABLE dag_run RENAME run_after TO something_else",
        "airflow tables",
        f"have changed since dagbump was installed for those of Airflow {environments.shape().label}; missing: dag_",
    ),
    "Airflow's schema renamed": (
        "ALTER SCHEMA public RENAME TO airflow",
        "airflow tables",
        "`dagbump upgrade --airflow-schema NAME`",
    ),
    "another shape recorded": (
        "UPDATE dagbump.installation SET airflow_shape = 'another'",
        "airflow tables",
        "the record says another. Run `dagbump upgrade`",
    ),
    "a column of another type": (
        "ALTER TABLE dag_version ALTER version_number TYPE text",
        "column types",
        "dag_version.version_number is text, not integer",
    ),
    "a child": ("CREATE TABLE child () INHERITS (task_instance)", "plain tables", "Not plain tables: task_instance"),
    "a rule": (
        "CREATE RULE r AS ON UPDATE TO task_instance DO INSTEAD NOTHING",
        "plain tables",
        "task_instance has a rule",
    ),
    "an index of Airflow's": (
        "DROP INDEX ti_dag_run",
        "keys",
        "CREATE INDEX CONCURRENTLY ON public.task_instance (dag_id, run_id);",
    ),
    "a unique key": (
        "ALTER TABLE serialized_dag DROP CONSTRAINT serialized_dag_dag_version_id_uq",
        "keys",
        "CREATE UNIQUE INDEX CONCURRENTLY ON public.serialized_dag (dag_version_id);",
    ),
    "the foreign key": (
        "ALTER TABLE task_instance DROP CONSTRAINT task_instance_dag_version_id_fkey",
        "keys",
        "ALTER TABLE public.task_instance ADD FOREIGN KEY (dag_version_id)",
    ),
    "something of the index's name": (
        "CREATE INDEX dagbump_ti_unfinished ON job (state)",
        "optional index",
        "is not the optional index",
    ),
    "a deferred trigger": (
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
        "CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON task_instance DEFERRABLE FOR EACH ROW EXECUTE FUNCTION late()",
        "triggers",
        "late calls late. A DEFERRABLE trigger may",
    ),
    "another owner of a function": (
        "ALTER FUNCTION dagbump.help OWNER TO pg_monitor",
        "owner",
        "dagbump.help belongs to pg_monitor",
    ),
    "another owner of Airflow's tables": (
        "ALTER TABLE task_instance OWNER TO pg_monitor",
        "owner",
        "Airflow's tables belong to pg_monitor",
    ),
    "a grant to PUBLIC": (
        "GRANT EXECUTE ON FUNCTION dagbump.bump TO PUBLIC",
        "grants",
        "PUBLIC: EXECUTE on bump. Take it from PUBLIC",
    ),
    "a grant to write": (
        "GRANT CREATE ON SCHEMA dagbump TO pg_monitor",
        "grants",
        "pg_monitor: CREATE on schema dagbump",
    ),
    "a grant to write a column": (
        "GRANT UPDATE (bumped_by) ON dagbump.history TO pg_monitor",
        "grants",
        "pg_monitor: UPDATE on history (bumped_by)",
    ),
    "autovacuum off for the table": (
        "ALTER TABLE task_instance SET (autovacuum_enabled = off)",
        "statistics",
        "ALTER TABLE public.task_instance RESET (autovacuum_enabled);",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damage_is_found_and_what_to_do_is_said(connection: psycopg.Connection[Any], damage: str) -> None:
    statements, item, detail = DAMAGES[damage]
    connection.execute(statements.encode())
    found = wrong(connection)
    assert detail in found.get(item, ""), found


def test_what_is_fine_is_told(connection: psycopg.Connection[Any]) -> None:
    """Triggers that run as the owner, a trigger that no bump fires, and roles with rights."""
    connection.execute("CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
    connection.execute("CREATE TRIGGER seen BEFORE UPDATE ON task_instance FOR EACH ROW EXECUTE FUNCTION t()")
    connection.execute("CREATE TRIGGER other BEFORE UPDATE OF state ON task_instance FOR EACH ROW EXECUTE FUNCTION t()")
    connection.execute("GRANT EXECUTE ON FUNCTION dagbump.preview TO pg_monitor")
    assert wrong(connection) == {}
    items = checked(connection)
    assert items["triggers"].detail.endswith("as the owner: seen calls t")
    assert items["grants"].detail == "pg_monitor: EXECUTE on preview"


class TestTheIndex:
    def test_missing_is_ok_and_how_to_get_it_is_said(self, connection: psycopg.Connection[Any]) -> None:
        item = checked(connection)["optional index"]
        assert (item.ok, "`dagbump upgrade --with-index`" in item.detail) == (True, True)

    def test_valid_and_invalid(self, fleet: Fleet, database: URL) -> None:
        installer.upgrade(create_engine(libpq(database)), installer.NEWEST_INDEX)
        assert checked(fleet.connection)["optional index"].detail.startswith("there, and valid: ")
        fleet.execute("UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid = 'dagbump_ti_unfinished'::regclass")
        assert "builds it anew" in wrong(fleet.connection)["optional index"]

    def test_being_built(self, fleet: Fleet, database: URL, connect: Connect) -> None:
        """Also by a role whose progress the owner may not see. The check runs as the owner."""
        fleet.execute("DROP ROLE IF EXISTS dagbump_test_builder")
        fleet.execute("CREATE ROLE dagbump_test_builder SUPERUSER LOGIN PASSWORD 'secret'")
        writer = connect()
        writer.execute("UPDATE task_instance SET hostname = 'held' WHERE FALSE")
        builder = database.set(username="dagbump_test_builder", password="secret")  # noqa: S106
        with running(*DAGBUMP, "upgrade", "--with-index", DAGBUMP_URL=libpq(builder)) as process:
            there = "SELECT to_regclass('dagbump_ti_unfinished')"
            until(lambda: fleet.execute(there).fetchone() != (None,), lambda: "the index is being built")
            item = checked(fleet.connection)["optional index"]
            assert (item.ok, item.detail[:21]) == (True, "being built right now")
            writer.rollback()
            assert process.finish(timeout=60) == 0
        fleet.execute("DROP ROLE dagbump_test_builder")


class TestStatistics:
    def filled(self, fleet: Fleet) -> None:
        (version,) = fleet.dag("d", versions=1)
        run_ = fleet.run("d")
        fleet.tis(run_, version, ["queued"] * 40)
        fleet.copy_run(run_, 200)

    @pytest.mark.parametrize("before", ["SELECT", "ANALYZE task_instance"])
    def test_never_analyzed_or_when_it_was_empty(self, fleet: Fleet, before: str) -> None:
        fleet.execute("ALTER TABLE task_instance SET (autovacuum_enabled = off)")  # which would be first
        fleet.connection.execute(before.encode())
        self.filled(fleet)
        said = wrong(fleet.connection)["statistics"]
        assert "RESET (autovacuum_enabled);" in said
        assert "ANALYZE public.task_instance;" in said
        fleet.execute("ANALYZE task_instance")
        assert "ANALYZE" not in wrong(fleet.connection)["statistics"]
        fleet.execute("ALTER TABLE task_instance RESET (autovacuum_enabled)")
        assert wrong(fleet.connection) == {}

    @pytest.mark.once
    def test_autovacuum_off_on_the_server(self, fleet: Fleet) -> None:
        try:
            fleet.execute("ALTER SYSTEM SET autovacuum = off")
            fleet.execute("SELECT pg_reload_conf()")
            until(lambda: "statistics" in wrong(fleet.connection), lambda: "the server has read its configuration")
            assert "ALTER SYSTEM SET autovacuum = on" in wrong(fleet.connection)["statistics"]
        finally:
            fleet.execute("ALTER SYSTEM RESET autovacuum")
            fleet.execute("SELECT pg_reload_conf()")


@pytest.mark.once
class TestTheOwnersRights:
    OWNER = "dagbump_test_owner"

    @pytest.fixture
    def owned(self, airflow_database: URL) -> Iterator[psycopg.Connection[Any]]:
        """A superuser's connection to a database with dagbump, in which an ordinary role owns everything."""
        with psycopg.connect(libpq(airflow_database), autocommit=True) as connection:
            owner = sql.Identifier(self.OWNER)
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(owner))
            connection.execute(sql.SQL("CREATE ROLE {}").format(owner))
            for (table,) in connection.execute(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 2200"
            ):
                connection.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(sql.Identifier(table), owner))
            connection.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(owner))
            installer.upgrade(create_engine(libpq(airflow_database), trust_owner=True))
            yield connection
            connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(owner))
            connection.execute(sql.SQL("DROP ROLE {}").format(owner))

    def test_lost_rights_are_named_with_what_gives_them_back(self, owned: psycopg.Connection[Any]) -> None:
        assert wrong(owned) == {}
        for lost, back in (
            ("SELECT ON serialized_dag", "GRANT SELECT ON TABLE public.serialized_dag TO dagbump_test_owner;"),
            ("UPDATE ON dag_version", "GRANT UPDATE ON TABLE public.dag_version TO dagbump_test_owner;"),
            (
                "EXECUTE ON FUNCTION dagbump.take_version",
                "GRANT EXECUTE ON ROUTINE dagbump.take_version(uuid,text,text,uuid[],boolean) TO dagbump_test_owner;",
            ),
            ("INSERT ON dagbump.history", "GRANT INSERT ON TABLE dagbump.history TO dagbump_test_owner;"),
        ):
            owned.execute(sql.SQL("REVOKE {} FROM {}").format(sql.SQL(lost), sql.Identifier(self.OWNER)))
            said = wrong(owned)["owner's rights"]
            assert said.endswith(f"run: {back}")
            owned.execute(back.encode())
            assert wrong(owned) == {}

    def test_an_upgrade_refuses_an_owner_who_could_not_lock_a_version(
        self, owned: psycopg.Connection[Any], airflow_database: URL
    ) -> None:
        owned.execute("ALTER TABLE dag_version OWNER TO CURRENT_USER")
        owned.execute(sql.SQL("GRANT SELECT ON dag_version TO {}").format(sql.Identifier(self.OWNER)))
        with pytest.raises(dagbump.InsufficientPrivilege, match="GRANT UPDATE ON TABLE"):
            installer.upgrade(create_engine(libpq(airflow_database), trust_owner=True))

    def test_policies_that_hide_rows_from_her(self, owned: psycopg.Connection[Any]) -> None:
        owned.execute("ALTER TABLE task_instance ENABLE ROW LEVEL SECURITY")
        assert wrong(owned) == {}
        owned.execute("ALTER TABLE task_instance FORCE ROW LEVEL SECURITY")
        assert "task_instance has policies that apply to its owner" in wrong(owned)["plain tables"]


@pytest.mark.once
class TestTheCommand:
    def test_all_is_ok(self, database: URL) -> None:
        done = command(*DAGBUMP, "check", DAGBUMP_URL=libpq(database))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith("All is ok. Next: dagbump preview\n")

    def test_a_person_sees_what_is_not_ok(self, fleet: Fleet, database: URL) -> None:
        fleet.execute("DROP INDEX ti_dag_run")
        done = on_terminal(*DAGBUMP, "check", "--url", libpq(database), columns=80)
        assert Style.parse(WRONG).render("NOT OK").split("NOT")[0] + "NOT OK" in done.stdout
        assert done.returncode == 1
        assert "1 item not ok." in done.stdout

    def test_not_installed_and_it_could_be(self, airflow_database: URL) -> None:
        before = dump_schema(airflow_database)
        done = command(*DAGBUMP, "check", "--json", DAGBUMP_URL=libpq(airflow_database))
        assert (done.returncode, done.stderr) == (4, "")
        not_installed, upgrade = json.loads(done.stdout)
        assert (not_installed["ok"], "`dagbump upgrade`" in not_installed["detail"]) == (False, True)
        assert (upgrade["item"], upgrade["ok"]) == ("upgrade", True)
        assert dump_schema(airflow_database) == before

    def test_no_airflow(self, postgres: Server) -> None:
        items = run(postgres.database("template1"), code=4)
        assert "no Airflow tables" in items["upgrade"].detail
        assert list(items) == ["upgrade", "dagbump"]  # what has to be done first comes first

    def test_airflow_2(self, airflow_database: URL) -> None:
        with psycopg.connect(libpq(airflow_database)) as connection:
            connection.execute("ALTER TABLE task_instance DROP dag_version_id CASCADE")
        items = run(airflow_database, code=4)
        assert "those of Airflow 2" in items["upgrade"].detail
        assert not items["upgrade"].ok

    def test_a_column_of_another_type_is_refused_by_the_upgrade(self, airflow_database: URL) -> None:
        with psycopg.connect(libpq(airflow_database)) as connection:
            connection.execute("ALTER TABLE dag_run ALTER run_after TYPE timestamp")
        items = run(airflow_database, code=4)
        assert "of another type: dag_run.run_after is timestamp without time zone" in items["upgrade"].detail
        with pytest.raises(dagbump.UnsupportedAirflow, match="of another type"):
            installer.upgrade(create_engine(libpq(airflow_database)))

    def test_a_schema_of_somebody_elses(self, airflow_database: URL) -> None:
        with psycopg.connect(libpq(airflow_database)) as connection:
            connection.execute(
                """
                CREATE SCHEMA dagbump AUTHORIZATION pg_monitor;
                CREATE FUNCTION dagbump.check() RETURNS text LANGUAGE plpgsql AS
                $$ BEGIN DROP TABLE task_instance; END $$
                """
            )
        before = dump_schema(airflow_database)
        items = run(airflow_database, code=4)
        assert "pg_monitor" in items["dagbump"].detail
        assert "does not belong to" in items["upgrade"].detail
        assert dump_schema(airflow_database) == before

    def test_something_put_into_it(self, fleet: Fleet, database: URL) -> None:
        fleet.execute("ALTER FUNCTION dagbump.check OWNER TO pg_monitor")
        assert "belongs to pg_monitor" in run(database, code=4)["dagbump"].detail

    def test_an_older_revision(self, fleet: Fleet, database: URL) -> None:
        fleet.execute("UPDATE dagbump.installation SET revision = '0000'")
        items = run(database, code=4)
        assert "holds dagbump 0000" in items["dagbump"].detail
        assert items["upgrade"].ok

    def test_a_newer_revision(self, fleet: Fleet, database: URL) -> None:
        fleet.execute("UPDATE dagbump.installation SET revision = '9999'")
        assert "it also works with 9999" in run(database, code=0)["package"].detail
        fleet.execute("UPDATE dagbump.installation SET works_with_packages_from = '9999'")
        items = run(database, code=4)
        assert "upgrade the package" in items["dagbump"].detail
        assert "upgrade" not in items

    @pytest.mark.parametrize("lost", ["FUNCTION dagbump.check", "TABLE dagbump.installation"])
    def test_restored_in_part(self, fleet: Fleet, database: URL, lost: str) -> None:
        fleet.connection.execute(f"DROP {lost}".encode())
        items = run(database, code=4)
        assert "dagbump upgrade" in items["dagbump"].detail
        assert items["upgrade"].ok

    def test_a_role_without_rights(self, database: URL, role: str) -> None:
        items = run(database.update_query_dict({"options": f"-crole={role}"}), code=1)
        said = items["dagbump"].detail
        assert "permission denied" in said
        assert f"SELECT dagbump.grant_operator('{role}');" in said

    def test_not_reachable(self) -> None:
        done = command(*DAGBUMP, "check", "--url", "postgresql://airflow:secret@127.0.0.1:1/airflow")
        assert (done.returncode, "secret" in done.stderr) == (3, False)
