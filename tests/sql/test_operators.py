"""Operators: roles that may use dagbump, cannot write Airflow's tables, and cannot use the functions to do so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import dagbump
import psycopg
import pytest
from dagbump.database import create_engine
from dagbump.installation import checking, installer
from psycopg import sql
from sqlalchemy.engine import URL
from support.fleet import Fleet, stale_run
from support.server import Connect, Server, libpq

Connection = psycopg.Connection[Any]
NewRole = Callable[..., str]

# Rights that an operator does not have.
FOR_THE_OWNER = {
    "alembic_version",
    "grant_operator",
    "prune_history",
    "revoke_operator",
    "tables_fit",
    "tasks_of_version",
    "transactions_behind",
}

RIGHTS = """
    SELECT proname, has_function_privilege(%(role)s, oid, 'EXECUTE') FROM pg_proc
    WHERE pronamespace = 'dagbump'::regnamespace
    UNION ALL
    SELECT relname, has_table_privilege(%(role)s, oid, 'SELECT') FROM pg_class
    WHERE relnamespace = 'dagbump'::regnamespace AND relkind = 'r'
    UNION ALL
    SELECT 'schema', has_schema_privilege(%(role)s, 'dagbump', 'USAGE')
"""


def rights(connection: Connection, role: str) -> dict[str, bool]:
    return dict(connection.execute(RIGHTS, {"role": role}).fetchall())


def may(connection: Connection, role: str) -> set[str]:
    return {name for name, has in rights(connection, role).items() if has}


def grant(connection: Connection, role: str | None) -> None:
    connection.execute("SELECT dagbump.grant_operator(%s)", [role])


def revoke(connection: Connection, role: str | None) -> None:
    connection.execute("SELECT dagbump.revoke_operator(%s)", [role])


@pytest.fixture
def new_role(postgres: Server) -> Iterator[NewRole]:
    """Creates roles, and drops them at the end. A test requests it before its database, because a role with rights in a
    database cannot be dropped.
    """
    with postgres.maintenance() as connection, ExitStack() as stack:
        connection.execute("SET lock_timeout = '10s'")

        def make(name: str, options: str = "") -> str:
            drop = sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name))
            connection.execute(drop)
            connection.execute(sql.SQL("CREATE ROLE {} {}").format(sql.Identifier(name), sql.SQL(options)))
            stack.callback(connection.execute, drop)
            return name

        yield make


@pytest.fixture
def owner(new_role: NewRole, database: URL) -> Iterator[str]:
    """The role that owns Airflow's tables and dagbump, and has no other right."""
    name = new_role("dagbump_test_owner", "LOGIN PASSWORD 'secret'")
    with psycopg.connect(libpq(database), autocommit=True) as connection:
        me = connection.execute("SELECT CURRENT_USER").fetchone()
        assert me is not None
        for statement in (
            "GRANT USAGE ON SCHEMA public TO {owner}",
            "ALTER SCHEMA dagbump OWNER TO {owner}",
        ):
            connection.execute(sql.SQL(statement).format(owner=sql.Identifier(name)))
        for schema, kind, called in connection.execute(
            """
            SELECT nspname, 'TABLE', relname FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
            WHERE relkind = 'r' AND nspname IN ('public', 'dagbump')
            """
        ).fetchall():
            connection.execute(
                sql.SQL("ALTER {} {}.{} OWNER TO {}").format(
                    sql.SQL(kind), *map(sql.Identifier, (schema, called, name))
                )
            )
        for (routine,) in connection.execute(
            "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'dagbump'::regnamespace"
        ).fetchall():
            connection.execute(sql.SQL("ALTER ROUTINE {} OWNER TO {}").format(sql.SQL(routine), sql.Identifier(name)))
        yield name
        connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(name)))


class TestGranting:
    def test_gives_all_but_what_is_the_owners_and_takes_it_back(
        self, new_role: NewRole, connection: Connection
    ) -> None:
        role = new_role("dagbump_test_operator")
        everything = set(rights(connection, role))
        assert may(connection, role) == set()
        for _ in range(2):
            grant(connection, role)
            assert may(connection, role) == everything - FOR_THE_OWNER
        for _ in range(2):
            revoke(connection, role)
            assert may(connection, role) == set()

    def test_takes_back_what_was_granted_by_hand(self, new_role: NewRole, connection: Connection) -> None:
        role = new_role("dagbump_test_operator")
        connection.execute(
            """
            GRANT ALL ON SCHEMA dagbump TO dagbump_test_operator;
            GRANT ALL ON ALL TABLES IN SCHEMA dagbump TO dagbump_test_operator;
            GRANT ALL ON ALL ROUTINES IN SCHEMA dagbump TO dagbump_test_operator;
            """
        )
        revoke(connection, role)
        assert may(connection, role) == set()
        assert connection.execute("SELECT has_schema_privilege(%s, 'dagbump', 'CREATE')", [role]).fetchone() == (False,)

    @pytest.mark.parametrize(
        "name", ['We"ird Näme', "PUBLIC", "current_user", "all; DROP TABLE task_instance; --", "$$x$$ %I %s", "UPPER"]
    )
    def test_names_that_need_quoting(self, new_role: NewRole, connection: Connection, name: str) -> None:
        role = new_role(name)
        grant(connection, role)
        assert "bump" in may(connection, role)
        detail = {item.item: item for item in dagbump.check(connection)}["grants"]
        assert (detail.ok, detail.detail) == (True, f"{name}: operator")
        revoke(connection, role)
        assert may(connection, role) == set()

    @pytest.mark.parametrize("function", ["grant_operator", "revoke_operator"])
    @pytest.mark.parametrize(
        ("role", "error", "message"),
        [
            (None, psycopg.errors.InvalidParameterValue, "must not be NULL"),
            ("public", psycopg.errors.InvalidParameterValue, "PUBLIC is every role"),
            (" Public ", psycopg.errors.InvalidParameterValue, "PUBLIC is every role"),
            ("", psycopg.errors.UndefinedObject, "there is no role ''"),
            ("nosuch", psycopg.errors.UndefinedObject, "there is no role 'nosuch'"),
            ("none", psycopg.errors.UndefinedObject, "there is no role 'none'"),
            ("a', 'b", psycopg.errors.UndefinedObject, "there is no role 'a'', ''b'"),
            ("x" * 64, psycopg.errors.UndefinedObject, "there is no role"),
        ],
    )
    def test_what_is_no_role_is_refused(
        self, connection: Connection, function: str, role: str | None, error: type[psycopg.Error], message: str
    ) -> None:
        with pytest.raises(error) as refused:
            connection.execute(sql.SQL("SELECT dagbump.{}(%s)").format(sql.Identifier(function)), [role])
        assert message in str(refused.value)
        assert refused.value.diag.message_hint

    def test_the_owner(self, owner: str, connection: Connection) -> None:
        """The owner has all rights, and revoke_operator cannot take the rights that the functions need."""
        notices: list[str] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        grant(connection, owner)
        assert "there is nothing to grant" in notices[0]
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="whose rights are not taken away"):
            revoke(connection, owner)

    def test_what_comes_from_another_role_is_told(self, new_role: NewRole, connection: Connection) -> None:
        notices: list[str] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        group, member = new_role("dagbump_test_group"), new_role("dagbump_test_member", "IN ROLE dagbump_test_group")
        grant(connection, group)
        assert "bump" in may(connection, member)
        revoke(connection, member)
        assert notices == [
            "the role dagbump_test_member still has the rights of these, as a member: dagbump_test_group"
        ]

    def test_what_comes_from_a_role_of_postgresql_is_told(self, new_role: NewRole, connection: Connection) -> None:
        if connection.info.server_version < 140000:
            pytest.skip("PostgreSQL 13 has no pg_read_all_data")
        operator = new_role("reader")
        connection.execute(f"GRANT pg_read_all_data TO {operator}".encode())
        told: list[str | None] = []
        connection.add_notice_handler(lambda notice: told.append(notice.message_primary))
        connection.execute("SELECT dagbump.revoke_operator(%s)", (operator,))
        assert told == [f"the role {operator} still has the rights of these, as a member: pg_read_all_data"]

    def test_what_another_role_has_granted_is_told_and_how_it_is_taken_back(
        self, new_role: NewRole, fleet: Fleet
    ) -> None:
        connection = fleet.connection
        told: list[tuple[str | None, str | None]] = []
        connection.add_notice_handler(lambda notice: told.append((notice.message_primary, notice.message_hint)))
        other, role = new_role("dagbump_test_other"), new_role("dagbump_test_role_of_other")
        fleet.execute(
            """
            GRANT USAGE ON SCHEMA dagbump TO dagbump_test_other WITH GRANT OPTION;
            GRANT SELECT ON dagbump.history TO dagbump_test_other WITH GRANT OPTION;
            GRANT EXECUTE ON FUNCTION dagbump.bump TO dagbump_test_other WITH GRANT OPTION;
            SET ROLE dagbump_test_other;
            GRANT USAGE ON SCHEMA dagbump TO dagbump_test_role_of_other;
            GRANT SELECT ON dagbump.history TO dagbump_test_role_of_other;
            GRANT EXECUTE ON FUNCTION dagbump.bump TO dagbump_test_role_of_other;
            RESET ROLE;
            """
        )
        grant(connection, role)
        revoke(connection, role)
        assert may(connection, role) == {"bump", "history", "schema"}
        ((message, hint),) = told
        assert message == (
            "the role dagbump_test_role_of_other still has rights that other roles granted: "
            "EXECUTE on bump from dagbump_test_other, SELECT on history from dagbump_test_other, "
            "USAGE on schema dagbump from dagbump_test_other"
        )
        connection.execute((hint or "").partition("roles: ")[2].encode())
        connection.execute("RESET ROLE")
        assert may(connection, role) == set()
        revoke(connection, role)
        assert told[1:] == []
        revoke(connection, other)

    def test_a_role_that_has_granted_its_rights_to_others(self, new_role: NewRole, fleet: Fleet) -> None:
        connection = fleet.connection
        other, role = new_role("dagbump_test_other"), new_role("dagbump_test_role_of_other")
        grant(connection, other)
        fleet.execute(
            """
            GRANT EXECUTE ON ALL ROUTINES IN SCHEMA dagbump TO dagbump_test_other WITH GRANT OPTION;
            SET ROLE dagbump_test_other;
            GRANT EXECUTE ON FUNCTION dagbump.check, dagbump.help TO dagbump_test_role_of_other;
            RESET ROLE;
            """
        )
        with pytest.raises(psycopg.errors.DependentObjectsStillExist) as refused:
            revoke(connection, other)
        assert refused.value.diag.message_primary == (
            "the role dagbump_test_other has granted rights to other roles: "
            "EXECUTE on check to dagbump_test_role_of_other, EXECUTE on help to dagbump_test_role_of_other"
        )
        connection.execute((refused.value.diag.message_hint or "").partition("first: ")[2].encode())
        revoke(connection, other)
        assert may(connection, role) == may(connection, other) == set()

    def test_a_right_on_a_column_is_told_too(self, new_role: NewRole, fleet: Fleet) -> None:
        connection = fleet.connection
        told: list[tuple[str | None, str | None]] = []
        connection.add_notice_handler(lambda notice: told.append((notice.message_primary, notice.message_hint)))
        other, role = new_role("dagbump_test_other"), new_role("dagbump_test_role_of_other")
        fleet.execute(
            """
            GRANT USAGE ON SCHEMA dagbump TO dagbump_test_other;
            GRANT SELECT ON dagbump.history TO dagbump_test_other WITH GRANT OPTION;
            SET ROLE dagbump_test_other;
            GRANT SELECT (dag_id) ON dagbump.history TO dagbump_test_role_of_other;
            RESET ROLE;
            """
        )
        revoke(connection, role)
        ((message, hint),) = told
        assert message == (
            "the role dagbump_test_role_of_other still has rights that other roles granted: "
            "SELECT on history (dag_id) from dagbump_test_other"
        )
        connection.execute((hint or "").partition("roles: ")[2].encode())
        connection.execute("RESET ROLE")
        may_read = "SELECT has_any_column_privilege(%s, 'dagbump.history', 'SELECT')"
        assert connection.execute(may_read, [role]).fetchall() == [(False,)]
        revoke(connection, role)
        assert told[1:] == []
        revoke(connection, other)


class TestWhoGrants:
    def test_the_owner_and_who_becomes_her(
        self, new_role: NewRole, owner: str, connect: Connect, database: URL
    ) -> None:
        role = new_role("dagbump_test_operator")
        member = new_role("dagbump_test_member", f"LOGIN PASSWORD 'secret' NOINHERIT IN ROLE {owner}")
        with psycopg.connect(libpq(database.set(username=owner, password="secret"))) as hers:  # noqa: S106
            grant(hers, role)
            assert "bump" in may(hers, role)
            hers.rollback()
        with psycopg.connect(libpq(database.set(username=member, password="secret"))) as theirs:  # noqa: S106
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                grant(theirs, role)
            theirs.rollback()
            theirs.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(owner)))
            grant(theirs, role)
            assert "bump" in may(theirs, role)
            theirs.rollback()
        assert may(connect(), role) == set()

    def test_nobody_else_even_where_it_was_granted_by_mistake(self, new_role: NewRole, connection: Connection) -> None:
        role = new_role("dagbump_test_operator")
        grant(connection, role)
        connection.execute("GRANT EXECUTE ON ALL ROUTINES IN SCHEMA dagbump TO dagbump_test_operator")
        connection.execute("SET ROLE dagbump_test_operator")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="cannot hand out what belongs to") as refused:
            grant(connection, role)
        assert "SET ROLE" in (refused.value.diag.message_hint or "")


class TestAnOperator:
    @pytest.fixture
    def operator(self, fleet: Fleet, connect: Connect, role: str) -> Connection:
        stale_run(fleet)
        grant(fleet.connection, role)
        connection = connect(autocommit=True)
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        return connection

    def test_previews_bumps_and_checks(self, operator: Connection) -> None:
        assert dagbump.preview(operator)[0].verdict == "bump"
        assert [item for item in dagbump.check(operator) if not item.ok] == []
        assert operator.execute("SELECT count(*) FROM dagbump.help()").fetchone() != (0,)
        assert operator.execute("SELECT count(*) FROM dagbump.installation").fetchone() == (1,)
        for answers in ("holders()", "versions()", "verify_scope('{}')"):
            operator.execute(f"SELECT * FROM dagbump.{answers}".encode())
        assert dagbump.bump(operator).bumped == 1
        assert operator.execute("SELECT count(*) FROM dagbump.history").fetchone() == (1,)

    def test_repairs(self, operator: Connection) -> None:
        operator.execute("CALL dagbump.repair()")
        assert [row.verdict for row in dagbump.preview(operator)] == []

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE task_instance SET dag_version_id = NULL",
            "SELECT FROM task_instance",
            "DELETE FROM dagbump.installation",
            "UPDATE dagbump.installation SET functions = '{}'",
            "SELECT FROM dagbump.alembic_version",
            "SELECT dagbump.take_version(gen_random_uuid(), 'd', 'r', '{}', true)",
            "SELECT dagbump.prune_history('1 day')",
            "DELETE FROM dagbump.history",
            "SELECT dagbump.grant_operator('dagbump_test_role')",
            "SELECT dagbump.revoke_operator('dagbump_test_role')",
            "CREATE FUNCTION dagbump.more() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE OR REPLACE FUNCTION dagbump.check() RETURNS TABLE (item text, ok boolean, detail text) "
            "LANGUAGE sql AS $$ SELECT 'a', true, 'b' $$",
            "ALTER FUNCTION dagbump.bump OWNER TO dagbump_test_role",
            "GRANT EXECUTE ON FUNCTION dagbump.bump TO PUBLIC",
        ],
    )
    def test_may_nothing_else(self, operator: Connection, statement: str) -> None:
        if statement.startswith("GRANT"):  # PostgreSQL warns, and grants nothing
            operator.execute(statement.encode())
            assert {item.item for item in dagbump.check(operator) if not item.ok} == set()
            return
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            operator.execute(statement.encode())

    def test_cannot_lead_the_functions_elsewhere(self, operator: Connection) -> None:
        """Neither by temporary tables nor by a path; test_traps tries functions, operators, casts and types."""
        for table in ("task_instance", "dag_run", "pg_class", "pg_proc", "installation"):
            operator.execute(f"CREATE TEMPORARY TABLE {table} (id integer)".encode())
        operator.execute("SET search_path = pg_temp, pg_catalog")
        assert [item for item in dagbump.check(operator) if not item.ok] == []
        assert dagbump.bump(operator).bumped == 1


@pytest.mark.once
class TestUpgrades:
    def test_bring_operators_what_is_new_and_nobody_else(self, new_role: NewRole, fleet: Fleet, database: URL) -> None:
        """A function that comes with the upgrade: here one that was lost."""
        operator, other = new_role("dagbump_test_operator"), new_role("dagbump_test_other")
        grant(fleet.connection, operator)
        fleet.execute("GRANT EXECUTE ON FUNCTION dagbump.bump TO dagbump_test_other")
        before = may(fleet.connection, operator)
        fleet.execute("DROP FUNCTION dagbump.check")
        installer.upgrade(create_engine(libpq(database)))
        assert may(fleet.connection, operator) == before
        assert may(fleet.connection, other) == {"bump"}
        revoke(fleet.connection, operator)
        fleet.execute("REVOKE EXECUTE ON FUNCTION dagbump.bump FROM dagbump_test_other")

    def test_a_downgrade_takes_all(self, new_role: NewRole, fleet: Fleet, database: URL) -> None:
        grant(fleet.connection, new_role("dagbump_test_operator"))
        installer.downgrade(create_engine(libpq(database)))
        assert fleet.execute("SELECT to_regnamespace('dagbump')").fetchone() == (None,)


class TestWhereNobodyIsASuperuser:
    """docs/managed-services.md describes this: the administrator has CREATEROLE and CREATEDB, and no other rights."""

    @pytest.fixture
    def admin(self, new_role: NewRole, airflow_database: URL) -> Iterator[URL]:
        """The administrator, who owns the database; Airflow's tables belong to the role that Airflow connects as."""
        url = airflow_database.set(username="dagbump_test_admin", password="secret")  # noqa: S106
        new_role("dagbump_test_admin", "LOGIN CREATEROLE CREATEDB PASSWORD 'secret'")
        with psycopg.connect(libpq(airflow_database), autocommit=True) as superuser:
            superuser.execute(
                sql.SQL("ALTER DATABASE {} OWNER TO dagbump_test_admin").format(sql.Identifier(url.database or ""))
            )
            superuser.execute("GRANT pg_read_all_stats TO dagbump_test_admin WITH ADMIN OPTION")
            with psycopg.connect(libpq(url), autocommit=True) as connection:
                for name in ("airflow", "airflow_operator"):
                    connection.execute(f"DROP ROLE IF EXISTS dagbump_test_{name}".encode())
                    connection.execute(f"CREATE ROLE dagbump_test_{name} LOGIN PASSWORD 'secret'".encode())
            superuser.execute("GRANT USAGE ON SCHEMA public TO dagbump_test_airflow")
            for (table,) in superuser.execute(
                "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 2200"
            ):
                superuser.execute(
                    sql.SQL("ALTER TABLE public.{} OWNER TO dagbump_test_airflow").format(sql.Identifier(table))
                )
            yield url
            superuser.execute(
                sql.SQL("ALTER DATABASE {} OWNER TO CURRENT_USER").format(sql.Identifier(url.database or ""))
            )
            for name in ("dagbump_test_airflow_operator", "dagbump_test_airflow"):
                superuser.execute(f"DROP OWNED BY {name} CASCADE".encode())
                superuser.execute(f"DROP ROLE {name}".encode())
            superuser.execute("DROP OWNED BY dagbump_test_admin CASCADE")

    def as_role(self, admin: URL, role: str) -> URL:
        return admin.set(username=role)

    def may_upgrade(self, url: URL) -> dagbump.CheckItem:
        with create_engine(libpq(url)).connect() as connection:
            items = {item.item: item for item in checking.look(connection).items}
            return items["upgrade"]

    def do(self, url: URL, *statements: str) -> None:
        with psycopg.connect(libpq(url), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def test_the_administrator_installs(self, admin: URL) -> None:
        refused = self.may_upgrade(admin)
        assert "GRANT dagbump_test_airflow TO dagbump_test_admin;" in refused.detail
        self.do(admin, "GRANT dagbump_test_airflow TO dagbump_test_admin")
        with psycopg.connect(libpq(admin)) as connection:
            release = connection.info.server_version
        if release >= 160000:
            self.do(admin, "GRANT dagbump_test_airflow TO dagbump_test_admin WITH SET FALSE")
            assert not self.may_upgrade(admin).ok
            self.do(admin, "GRANT dagbump_test_airflow TO dagbump_test_admin WITH SET TRUE")
        assert self.may_upgrade(admin).ok
        installer.upgrade(create_engine(libpq(admin)))
        # Whoever owns the database may create in its schema public, and it is the administrator who builds the index.
        installer.upgrade(create_engine(libpq(admin)), installer.NEWEST_INDEX)
        self.an_operator_works(admin)
        installer.downgrade(create_engine(libpq(admin)))

    def test_airflows_role_installs(self, admin: URL) -> None:
        airflow = self.as_role(admin, "dagbump_test_airflow")
        assert f"GRANT CREATE ON DATABASE {admin.database} TO dagbump_test_airflow;" in self.may_upgrade(airflow).detail
        self.do(admin, f"GRANT CREATE ON DATABASE {admin.database} TO dagbump_test_airflow")
        installer.upgrade(create_engine(libpq(airflow)))
        self.do(admin, f"REVOKE CREATE ON DATABASE {admin.database} FROM dagbump_test_airflow")
        installer.upgrade(create_engine(libpq(airflow)))  # once it is there, no right on the database is needed
        with psycopg.connect(libpq(airflow)) as connection:
            release = connection.info.server_version
        if release >= 150000:  # before, everybody may create in the schema public
            with pytest.raises(dagbump.InsufficientPrivilege) as refused_index:
                installer.upgrade(create_engine(libpq(airflow)), installer.NEWEST_INDEX)
            self.do(admin, str(refused_index.value).split("run: ")[1])
        installer.upgrade(create_engine(libpq(airflow)), installer.NEWEST_INDEX)
        self.do(admin, "GRANT dagbump_test_airflow TO dagbump_test_admin")
        self.an_operator_works(admin)

    def an_operator_works(self, admin: URL) -> None:
        self.do(
            admin,
            "SET ROLE dagbump_test_airflow",
            "SELECT dagbump.grant_operator('dagbump_test_airflow_operator')",
            "RESET ROLE",
            "GRANT pg_read_all_stats TO dagbump_test_airflow",
        )
        operator = self.as_role(admin, "dagbump_test_airflow_operator")
        with psycopg.connect(libpq(operator)) as connection:
            assert dagbump.preview(connection) == ()
            assert dagbump.bump(connection).runs == ()
            assert [item for item in dagbump.check(connection) if not item.ok] == []
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("UPDATE task_instance SET dag_version_id = NULL")
