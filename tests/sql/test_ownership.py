"""Everything that is installed belongs to the owner of Airflow's tables, whichever role installs it. Objects of other
roles are not trusted.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagbump
import psycopg
import pytest
from dagbump.database import create_engine
from dagbump.installation import installer
from sqlalchemy.engine import URL
from support.fleet import Fleet
from support.operator_traps import anybody_trapped, set_traps
from support.processes import ALEMBIC, DAGBUMP, command
from support.server import Server, dump_schema, libpq

OWNER, STRANGER = "dagbump_test_owner", "dagbump_test_stranger"


def run(url: URL, *words: str) -> subprocess.CompletedProcess[str]:
    return command(*DAGBUMP, *words, DAGBUMP_URL=libpq(url))


def trusting(url: URL, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a superuser who trusts the owner of Airflow's tables."""
    return command(*DAGBUMP, *words, "--trust-owner", DAGBUMP_URL=libpq(url))


@contextmanager
def session(url: URL) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        yield connection


def do(url: URL, statements: str) -> None:
    with session(url) as connection:
        connection.execute(statements.encode())


def ask(url: URL, query: str) -> list[tuple[Any, ...]]:
    with session(url) as connection:
        return connection.execute(query.encode()).fetchall()


@pytest.fixture
def roles(postgres: Server) -> Iterator[None]:
    with postgres.maintenance() as connection:
        for role in (OWNER, STRANGER):
            connection.execute(f"DROP ROLE IF EXISTS {role}".encode())
            connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'".encode())
    yield
    with postgres.maintenance() as connection:
        for role in (OWNER, STRANGER):
            connection.execute(f"DROP ROLE IF EXISTS {role}".encode())


@pytest.fixture
def owned(postgres: Server, airflow_database: URL, roles: None) -> Iterator[URL]:
    """A superuser's connection to Airflow's database, in which an ordinary role owns everything."""
    assert roles is None
    tables = """
        SELECT format('ALTER TABLE public.%I OWNER TO {}', relname)
        FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
    """
    do(airflow_database, f"GRANT USAGE, CREATE ON SCHEMA public TO {OWNER}")
    for (statement,) in ask(airflow_database, tables.format(OWNER)):
        do(airflow_database, statement)
    yield airflow_database
    postgres.drop_database(str(airflow_database.database))  # with all that the roles own there


def as_role(url: URL, role: str) -> URL:
    return url.set(username=role, password="secret")  # noqa: S106


OWNERS = """
    SELECT DISTINCT pg_get_userbyid(owner)::text FROM (
        SELECT relowner AS owner FROM pg_class WHERE relnamespace = 'dagbump'::regnamespace
        UNION ALL SELECT proowner FROM pg_proc WHERE pronamespace = 'dagbump'::regnamespace
        UNION ALL SELECT nspowner FROM pg_namespace WHERE nspname = 'dagbump'
    ) AS everything
"""


class TestWhoInstalls:
    def test_a_superuser_installs_for_the_owner(self, owned: URL) -> None:
        done = trusting(owned, "upgrade", "--with-index")
        assert done.returncode == 0, done.stderr
        assert ask(owned, OWNERS) == [(OWNER,)]

        # Afterwards the owner may change or drop it.
        for words in (["preview"], ["bump"], ["upgrade"], ["upgrade", "--with-index"], ["downgrade"]):
            done = run(as_role(owned, OWNER), *words)
            assert done.returncode == 0, done.stderr
        assert ask(owned, "SELECT to_regnamespace('dagbump'), to_regclass('dagbump_ti_unfinished')") == [(None, None)]

    def test_the_owners_trigger_gains_nothing_from_a_superusers_bump(self, owned: URL) -> None:
        trusting(owned, "upgrade")
        with session(owned) as connection:
            fleet = Fleet(connection)
            old, new = fleet.dag("d", versions=2)
            run_ = fleet.run("d")
            fleet.ti(run_, new, "success")
            fleet.ti(run_, old, "queued")
        do(
            as_role(owned, OWNER),
            """
            CREATE FUNCTION climb() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN EXECUTE 'ALTER ROLE dagbump_test_owner SUPERUSER'; RETURN NEW; END $$;
            CREATE TRIGGER climb BEFORE UPDATE ON task_instance FOR EACH ROW EXECUTE FUNCTION climb();
            """,
        )
        with session(owned) as superuser, pytest.raises(dagbump.InsufficientPrivilege, match="alter"):
            dagbump.bump(superuser)

    @pytest.mark.parametrize("first", ["", "upgrade"])
    def test_the_owners_default_privileges_grant_nothing(self, owned: URL, first: str) -> None:
        do(owned, f"GRANT CREATE ON DATABASE {owned.database} TO {OWNER}")
        if first:
            run(as_role(owned, OWNER), first)
            do(owned, "DROP FUNCTION dagbump.help")  # the next upgrade creates it again
        do(
            as_role(owned, OWNER),
            f"""
            ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;
            ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO {STRANGER};
            ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {STRANGER};
            ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO {STRANGER} WITH GRANT OPTION;
            """,
        )
        assert run(as_role(owned, OWNER), "upgrade").returncode == 0
        (grants,) = ask(owned, "SELECT ok, detail FROM dagbump.check() WHERE item = 'grants'")
        assert grants[0], grants
        assert grants[1].startswith("nobody but the owner"), grants

    def test_an_owner_who_may_not_create_a_schema_is_told_what_to_have_granted(self, owned: URL) -> None:
        done = run(as_role(owned, OWNER), "upgrade")
        assert done.returncode == 1
        assert f"GRANT CREATE ON DATABASE {owned.database} TO {OWNER};" in done.stderr
        assert "onnect as" not in done.stderr
        do(owned, f"GRANT CREATE ON DATABASE {owned.database} TO {OWNER}")
        assert run(as_role(owned, OWNER), "upgrade").returncode == 0

    def test_somebody_else_is_told_whom_to_connect_as(self, owned: URL) -> None:
        before = dump_schema(owned)
        done = run(as_role(owned, STRANGER), "upgrade")
        assert done.returncode == 1
        assert f"Airflow's tables belong to {OWNER}" in done.stderr
        assert f"GRANT {OWNER} TO {STRANGER};" in done.stderr
        assert dump_schema(owned) == before

    def test_a_member_of_the_owners_role_may(self, owned: URL) -> None:
        do(owned, f"GRANT {OWNER} TO {STRANGER}; GRANT CREATE ON DATABASE {owned.database} TO {STRANGER}")
        done = run(as_role(owned, STRANGER), "upgrade")
        assert done.returncode == 0, done.stderr
        assert ask(owned, OWNERS) == [(OWNER,)]

    def test_an_owner_who_may_not_read_all_of_airflow_is_told(self, owned: URL) -> None:
        do(owned, "ALTER TABLE serialized_dag OWNER TO CURRENT_USER")
        done = trusting(owned, "upgrade")
        assert done.returncode == 1
        assert f"the owner of task_instance, {OWNER}, lacks rights on Airflow's tables" in done.stderr
        assert f"GRANT SELECT ON TABLE public.serialized_dag TO {OWNER};" in done.stderr

    @pytest.mark.parametrize("of_stranger", ["TABLE dag_version", "TABLE backfill"])
    def test_a_table_of_a_stranger_is_refused(self, owned: URL, of_stranger: str) -> None:
        """A policy, and other code on a table, runs with the rights of the role that reads the table."""
        do(owned, f"ALTER {of_stranger} OWNER TO {STRANGER}")
        before = dump_schema(owned)
        done = trusting(owned, "upgrade")
        assert done.returncode == 4
        assert (
            f"other tables of Airflow belong to another role: {of_stranger.split()[1]} (of {STRANGER})" in done.stderr
        )
        assert dump_schema(owned) == before
        do(owned, f"GRANT {STRANGER} TO {OWNER}")  # before PostgreSQL 16, the stranger can do that
        assert trusting(owned, "upgrade").returncode == 4


TRAP = """
    CREATE FUNCTION public.trap() RETURNS text LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM set_config('role', session_user, false);
        EXECUTE 'ALTER ROLE dagbump_test_stranger SUPERUSER';
        RETURN '0001';
    END $$;
    CREATE FUNCTION public.trap_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM public.trap(); RETURN NEW; END $$;
"""
VERSION_TABLE = "CREATE TABLE dagbump.alembic_version (version_num varchar(32) PRIMARY KEY{});"
# What somebody can prepare in a schema dagbump of their own, or, as the owner, in that of Airflow's owner.
TRAPS = {
    "a view": "CREATE VIEW dagbump.alembic_version AS SELECT public.trap() AS version_num",
    "a rule": VERSION_TABLE.format("")
    + "CREATE RULE trap AS ON INSERT TO dagbump.alembic_version DO ALSO SELECT public.trap()",
    "a trigger": VERSION_TABLE.format("") + "CREATE TRIGGER trap BEFORE INSERT ON dagbump.alembic_version "
    "FOR EACH ROW EXECUTE FUNCTION public.trap_trigger()",
    "a default": VERSION_TABLE.format(", more text DEFAULT public.trap()"),
    "a check": VERSION_TABLE.format(" CHECK (public.trap() IS NOT NULL)"),
    "an index on an expression": VERSION_TABLE.format("")
    + """
        CREATE FUNCTION public.quiet(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN RETURN public.trap(); END $$;
        CREATE INDEX ON dagbump.alembic_version (public.quiet(version_num))
    """,
    "a policy": VERSION_TABLE.format("") + "ALTER TABLE dagbump.alembic_version ENABLE ROW LEVEL SECURITY;"
    "CREATE POLICY trap ON dagbump.alembic_version USING (public.trap() IS NOT NULL)",
    "a child": VERSION_TABLE.format("") + "CREATE TABLE public.child () INHERITS (dagbump.alembic_version)",
    "a function that runs as its caller": """
        CREATE FUNCTION dagbump.bump(
            dag_run_ids bigint[] DEFAULT NULL, dag_ids text[] DEFAULT NULL, max_runs integer DEFAULT NULL,
            caller_verifies boolean DEFAULT FALSE
        ) RETURNS text LANGUAGE sql AS 'SELECT public.trap()'
    """,
    "an argument of a type of her own": """
        CREATE FUNCTION public.is_fine(bigint[]) RETURNS boolean LANGUAGE plpgsql AS
        $$ BEGIN PERFORM public.trap(); RETURN TRUE; END $$;
        CREATE DOMAIN public.ids AS bigint[] CHECK (public.is_fine(VALUE));
        CREATE FUNCTION dagbump.bump(
            dag_run_ids public.ids DEFAULT '{1}', dag_ids text[] DEFAULT NULL, max_runs integer DEFAULT NULL,
            caller_verifies boolean DEFAULT FALSE
        ) RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS 'SELECT 1::text'
    """,
    "a default of an argument": """
        CREATE FUNCTION dagbump.bump(dag_ids text DEFAULT public.trap()) RETURNS text
        LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS 'SELECT 1::text'
    """,
}


EVERY_COMMAND = (
    *([*DAGBUMP, *words] for words in (["upgrade"], ["upgrade", "--with-index"], ["downgrade"], ["check"], ["bump"])),
    *([*DAGBUMP, *words] for words in (["preview", "--dag-id", "d"], ["repair", "--yes"], ["run"], ["holders"])),
    *([*DAGBUMP, *words] for words in (["versions"], ["history"])),
    *([*ALEMBIC, *words] for words in (["upgrade", "heads"], ["downgrade", "base"], ["current"])),
)


@pytest.mark.once
class TestASuperuserWhoIsNotTheOwner:
    """The owner can make any reader of the tables run code, even while the reader waits for a lock."""

    def test_is_refused_by_every_command_before_anything_is_read(self, owned: URL) -> None:
        assert trusting(owned, "upgrade").returncode == 0
        before = dump_schema(owned)
        tables = "dagbump.alembic_version, dagbump.installation, dagbump.history, dag, dag_run, task_instance"
        with psycopg.connect(libpq(as_role(owned, OWNER))) as owner:
            owner.execute(f"LOCK TABLE {tables}".encode())  # every reader waits
            for words in EVERY_COMMAND:
                done = command(*words, DAGBUMP_URL=libpq(owned))
                assert done.returncode != 0, words
                assert f"Airflow's tables belong to {OWNER}" in done.stderr, (words, done.stderr)
                assert f"Connect as {OWNER}" in done.stderr
                assert "--trust-owner" in done.stderr
        assert dump_schema(owned) == before

    @pytest.mark.slow
    def test_may_trust_the_owner(self, owned: URL) -> None:
        for words in EVERY_COMMAND[:6]:
            done = command(*words, DAGBUMP_URL=libpq(owned), DAGBUMP_TRUST_OWNER="1")
            assert "--trust-owner" not in done.stderr, done.stderr
        for words in (["upgrade"], ["check"], ["bump"], ["repair", "--yes"], ["downgrade"]):
            done = trusting(owned, *words)
            assert done.returncode == 0, (words, done.stderr)

    def test_so_is_a_role_that_may_become_one(self, owned: URL) -> None:
        with session(owned) as superuser:
            superuser.execute(f'GRANT "{owned.username}" TO {STRANGER}'.encode())
            done = run(as_role(owned, STRANGER), "preview")
            superuser.execute(f'REVOKE "{owned.username}" FROM {STRANGER}'.encode())
        assert (done.returncode, "or may become one" in done.stderr) == (1, True), done.stderr

    def test_is_not_refused_where_the_owner_is_one_too(self, owned: URL) -> None:
        do(owned, f"ALTER ROLE {OWNER} SUPERUSER")
        assert run(owned, "upgrade").returncode == 0
        refused = run(as_role(owned, STRANGER), "upgrade")
        assert (refused.returncode, f"Connect as {OWNER}." in refused.stderr) == (1, True), refused.stderr
        assert "GRANT" not in refused.stderr
        assert run(owned, "downgrade").returncode == 0


@pytest.mark.once
class TestNobodyElsesIsBelieved:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("trap", "by"), [*((trap, OWNER) for trap in TRAPS), ("a view", STRANGER), ("a policy", STRANGER)]
    )
    def test_before_an_upgrade_nothing_of_it_is_run(self, owned: URL, trap: str, by: str) -> None:
        """A superuser upgrades, previews and bumps. A trap that runs would make the stranger a superuser."""
        do(owned, f"GRANT CREATE ON DATABASE {owned.database} TO {by}; GRANT CREATE ON SCHEMA public TO {by}")
        do(as_role(owned, by), f"CREATE SCHEMA dagbump; {TRAP} {TRAPS[trap]}")
        before = dump_schema(owned)
        commands = [[*DAGBUMP, *words] for words in (["upgrade"], ["downgrade"], ["preview"], ["bump"], ["run"])]
        commands += [[*ALEMBIC, *words] for words in (["upgrade", "head"], ["downgrade", "base"], ["current"])]
        for words in commands:
            done = command(*words, DAGBUMP_URL=libpq(owned), DAGBUMP_TRUST_OWNER="1")
            assert done.returncode != 0, words
            assert "Traceback" not in done.stderr
            if words[1:3] == ["-m", "dagbump"]:
                assert done.returncode == 4, done.stderr
        assert ask(owned, f"SELECT rolsuper FROM pg_roles WHERE rolname = '{STRANGER}'") == [(False,)]
        assert dump_schema(owned) == before

    @pytest.mark.slow
    def test_operators_on_the_path_are_not_run(self, owned: URL) -> None:
        """PostgreSQL has none for oid and regtype, for example, and takes whose there is."""
        do(owned, f"GRANT CREATE ON SCHEMA public TO {STRANGER}")
        with session(as_role(owned, STRANGER)) as stranger:
            set_traps(stranger)
        installing = [[*ALEMBIC, *words] for words in (["upgrade", "head"], ["current"], ["stamp", "head"])]
        installing += [[*DAGBUMP, "upgrade", "--with-index"]]
        using = [
            [*DAGBUMP, *words]
            for words in (
                ["check"],
                ["preview", "--dag-id", "d"],
                ["bump", "--dag-id", "d", "--max-runs", "5"],
                ["repair", "--yes"],
                ["holders"],
                ["versions"],
                ["history", "--since", "2h", "--dag-id", "d"],
                ["downgrade", "--yes"],
            )
        ]
        with session(owned) as superuser:
            fleet = Fleet(superuser)
            old, new = fleet.dag("d", versions=2)
            for run, driver in ((1, {}), (2, {"PSYCOPG_IMPL": "none"})):  # psycopg, psycopg2
                fleet.ti(fleet.run("d", f"run_of_{run}"), new, "success")
                fleet.ti(fleet.run("d", f"run_{run}"), old, "queued")
                for words in [*installing, *using]:
                    done = command(*words, DAGBUMP_URL=libpq(owned), DAGBUMP_TRUST_OWNER="1", **driver)
                    assert not anybody_trapped(superuser), (words, done.stderr)
                    assert done.returncode == 0, (words, done.stdout, done.stderr)

    def test_an_empty_schema_of_somebody_elses_is_refused_by_name(self, owned: URL) -> None:
        do(owned, f"CREATE SCHEMA dagbump AUTHORIZATION {STRANGER}")
        done = trusting(owned, "upgrade")
        assert done.returncode == 4
        assert f"does not belong to {OWNER}, the owner of Airflow's tables, but to {STRANGER}" in done.stderr

    def test_an_empty_schema_of_the_owners_is_used(self, owned: URL) -> None:
        do(owned, f"CREATE SCHEMA dagbump AUTHORIZATION {OWNER}")
        assert trusting(owned, "upgrade").returncode == 0
        assert ask(owned, OWNERS) == [(OWNER,)]

    @pytest.mark.parametrize(
        "theirs",
        [
            f"GRANT CREATE, USAGE ON SCHEMA dagbump TO {STRANGER}; SET ROLE {STRANGER}; CREATE TABLE dagbump.t ()",
            f"GRANT CREATE, USAGE ON SCHEMA dagbump TO {STRANGER}; SET ROLE {STRANGER}; "
            "CREATE FUNCTION dagbump.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            f"ALTER FUNCTION dagbump.bump OWNER TO {STRANGER}",
        ],
    )
    def test_what_somebody_put_into_it_later_is_refused(self, owned: URL, theirs: str) -> None:
        assert trusting(owned, "upgrade").returncode == 0
        do(owned, theirs)
        for words in (["upgrade"], ["preview"], ["bump"]):
            done = trusting(owned, *words)
            assert done.returncode == 4, done.stderr
            assert f"belongs to {STRANGER}" in done.stderr


class TestTheRightsOfAnOperator:
    """A role that is not the owner may read enough for psql and the command line."""

    def test_are_what_the_error_says(self, owned: URL) -> None:
        installer.upgrade(create_engine(libpq(owned), trust_owner=True))
        operator = as_role(owned, STRANGER)
        denied = run(operator, "bump")
        assert denied.returncode == 1
        assert f"connect as {OWNER}" in denied.stderr
        statement = f"SELECT dagbump.grant_operator('{STRANGER}');"
        assert statement in denied.stderr

        do(owned, statement)
        for words in (["preview"], ["bump"], ["check"]):
            done = run(operator, *words)
            assert done.returncode == 0, done.stderr
        with session(operator) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("UPDATE task_instance SET dag_version_id = NULL")
