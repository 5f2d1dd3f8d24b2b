"""A stranger creates objects with the names of Airflow's tables, or in a schema dagbump. Nobody runs their code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from dagbump import database as dagbump_database
from dagbump.installation import installer
from psycopg import sql
from sqlalchemy.engine import URL
from support.fleet import Fleet, stale_run
from support.processes import DAGBUMP, command
from support.server import Connect, libpq

FUNCTIONS = [
    "bump()",
    "check()",
    "holders()",
    "preview()",
    "repair_batch('{1}', 1)",
    "repairable()",
    "running()",
    "tasks_of_run(1)",
    "verify_scope(NULL)",
    "versions()",
    "versions_by_day()",
    "versions_of_runs('{1}')",
]
PASSER_BY = "dagbump_passer_by"
COMMANDS = ["bump", "check", "holders", "preview", "versions"]


def test_each_function_that_runs_as_its_owner_is_among_them(connection: psycopg.Connection[Any]) -> None:
    rows = connection.execute(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'dagbump'::regnamespace AND prosecdef ORDER BY proname"
    ).fetchall()
    assert [name for (name,) in rows] == [function.partition("(")[0] for function in FUNCTIONS]


class Stranger:
    """A role whose views under the names of Airflow's tables leave a trace when their code runs."""

    def __init__(self, fleet: Fleet, role: str) -> None:
        self._fleet = fleet
        self._role = role
        # Without this column the tables are those of Airflow up to 3.2, in which check looks at the order of versions.
        fleet.execute("ALTER TABLE {schema}.task_instance DROP COLUMN IF EXISTS retry_reason")
        fleet.execute("CREATE SEQUENCE {schema}.trace")
        fleet.execute(
            "CREATE FUNCTION {schema}.code_of_a_stranger() RETURNS boolean LANGUAGE sql VOLATILE "
            "AS $$ SELECT nextval('{schema}.trace') > 0 $$"
        )

    def replaces(self, table: str) -> None:
        """Put a view in the place of a table, whose owner has moved it away."""
        name, moved, role = sql.Identifier(table), sql.Identifier(f"{table}_before"), sql.Identifier(self._role)
        statements = (
            sql.SQL("ALTER TABLE public.{} RENAME TO {}").format(name, moved),
            sql.SQL("GRANT SELECT ON public.{} TO {}").format(moved, role),
            sql.SQL("CREATE VIEW public.{} AS SELECT * FROM public.{} WHERE public.code_of_a_stranger()").format(
                name, moved
            ),
            sql.SQL("ALTER VIEW public.{} OWNER TO {}").format(name, role),
            sql.SQL("GRANT SELECT ON public.{} TO PUBLIC").format(name),
        )
        for statement in statements:
            self._fleet.connection.execute(statement)

    def code_ran(self) -> bool:
        return self._fleet.execute("SELECT is_called FROM {schema}.trace").fetchall() == [(True,)]


@pytest.fixture
def stranger(fleet: Fleet, role: str) -> Stranger:
    stale_run(fleet)
    return Stranger(fleet, role)


@pytest.mark.parametrize("table", ["dag", "dag_run", "dag_version", "serialized_dag"])
class TestAViewOfAStranger:
    def test_runs_for_no_caller(self, connect: Connect, stranger: Stranger, table: str) -> None:
        stranger.replaces(table)
        for function in FUNCTIONS:
            _answers(connect(autocommit=True), function)
        assert not stranger.code_ran()

    def test_runs_for_no_session_that_has_called_before(self, connect: Connect, stranger: Stranger, table: str) -> None:
        connection = connect(autocommit=True)
        assert all(_answers(connection, function) for function in FUNCTIONS for _ in range(7))  # plans are kept
        stranger.replaces(table)
        assert [function for function in FUNCTIONS if _answers(connection, function)] == ["check()"]
        assert not stranger.code_ran()


@pytest.mark.parametrize("timing", ["TRIGGER t BEFORE UPDATE", "CONSTRAINT TRIGGER t AFTER UPDATE"])
def test_an_operator_gains_nothing_by_a_trigger(
    database: URL, connect: Connect, fleet: Fleet, role: str, timing: str
) -> None:
    """Otherwise a role that may create triggers on task_instance could make the owner run its code at any time."""
    stale_run(fleet)
    fleet.execute("SELECT dagbump.grant_operator(%s)", role)
    fleet.connection.execute(f"GRANT TRIGGER ON public.task_instance TO {role}".encode())
    fleet.connection.execute(f"GRANT CREATE ON SCHEMA public TO {role}".encode())
    operator = connect(autocommit=True)
    operator.execute(f"SET ROLE {role}".encode())
    operator.execute("SELECT * FROM dagbump.preview()")  # its plans are kept
    operator.execute(
        "CREATE FUNCTION public.of_an_operator() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN EXECUTE format('ALTER ROLE %I SUPERUSER', session_user); RETURN NEW; END $$"
    )
    operator.execute(
        f"CREATE {timing} ON public.task_instance FOR EACH ROW EXECUTE FUNCTION public.of_an_operator()".encode()
    )
    for function in ("bump()", "preview()", "repair_batch('{1}', 1)"):
        with pytest.raises(psycopg.DatabaseError, match=rf"t calls .*of_an_operator \(of {role}\)") as raised:
            operator.execute(f"SELECT * FROM dagbump.{function}".encode())
        assert raised.value.sqlstate == "DBU02"
    assert command(*DAGBUMP, "upgrade", DAGBUMP_URL=libpq(database)).returncode == 4
    ((detail,),) = fleet.execute("SELECT detail FROM dagbump.check() WHERE item = 'triggers' AND NOT ok").fetchall()
    assert f"(of {role})" in detail
    fleet.execute("ALTER FUNCTION {schema}.of_an_operator() OWNER TO CURRENT_USER")
    assert command(*DAGBUMP, "upgrade", DAGBUMP_URL=libpq(database)).returncode == 0


def _answers(connection: psycopg.Connection[Any], function: str) -> bool:
    try:
        connection.execute(f"SELECT * FROM dagbump.{function}".encode())
    except psycopg.Error:
        return False
    return True


@pytest.mark.parametrize("words", [*COMMANDS, "repair --yes"])
@pytest.mark.parametrize("table", ["dag", "dag_run"])
def test_no_command_runs_a_view_of_a_stranger(
    database: URL, fleet: Fleet, stranger: Stranger, table: str, words: str
) -> None:
    ((dag_id,),) = fleet.execute("SELECT dag_id FROM {schema}.dag").fetchall()
    stranger.replaces(table)
    filters = () if words == "check" else ("--dag-id", dag_id)
    done = command(*DAGBUMP, *words.split(), *filters, DAGBUMP_URL=libpq(database), DAGBUMP_TRUST_OWNER="1")
    assert not stranger.code_ran()
    assert done.returncode != 0
    assert f"{table} (of " in " ".join((done.stdout + done.stderr).split())


def test_check_names_a_table_of_a_stranger(connect: Connect, fleet: Fleet, role: str) -> None:
    fleet.execute("ALTER TABLE {schema}.dag RENAME TO dag_before")
    fleet.execute("CREATE TABLE {schema}.dag (LIKE {schema}.dag_before INCLUDING ALL)")
    fleet.connection.execute(sql.SQL("ALTER TABLE public.dag OWNER TO {}").format(sql.Identifier(role)))
    found = connect().execute("SELECT item, detail FROM dagbump.check() WHERE NOT ok").fetchall()
    assert [detail for item, detail in found if item == "owner" and f"dag (of {role})" in detail]


class TestASchemaOfAStranger:
    """The stranger has a dagbump of its own, for tables that are not there any more."""

    @pytest.fixture
    def strange(self, airflow_database: URL) -> Iterator[URL]:
        with psycopg.connect(libpq(airflow_database), autocommit=True) as connection:
            connection.execute("DROP ROLE IF EXISTS dagbump_stranger, dagbump_passer_by")
            connection.execute("CREATE ROLE dagbump_stranger")
            connection.execute("CREATE ROLE dagbump_passer_by LOGIN PASSWORD 'dagbump_passer_by'")
            connection.execute("ALTER SCHEMA public OWNER TO dagbump_stranger")
            connection.execute(
                """
                DO $$ DECLARE relation regclass; BEGIN
                    FOR relation IN
                        SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
                    LOOP EXECUTE format('ALTER TABLE %s OWNER TO dagbump_stranger', relation); END LOOP;
                    EXECUTE format('GRANT CREATE ON DATABASE %I TO dagbump_stranger', current_database());
                END $$
                """
            )
            installer.upgrade(dagbump_database.create_engine(libpq(airflow_database), trust_owner=True))
            connection.execute("ALTER SCHEMA public RENAME TO moved")
            connection.execute("CREATE SCHEMA public")
            connection.execute("GRANT USAGE ON SCHEMA dagbump TO PUBLIC")
            connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA dagbump TO PUBLIC")
            connection.execute("GRANT EXECUTE ON ALL ROUTINES IN SCHEMA dagbump TO PUBLIC")
            # A session that reads one of its tables would wait for ever.
            with connection.transaction():
                for table in ("installation", "history", "alembic_version"):
                    connection.execute(sql.SQL("LOCK TABLE dagbump.{}").format(sql.Identifier(table)))
                yield airflow_database
            connection.execute("DROP OWNED BY dagbump_stranger CASCADE")
            connection.execute("DROP ROLE dagbump_stranger, dagbump_passer_by")

    @pytest.mark.parametrize("words", [*COMMANDS, "history", "repair --yes", "upgrade", "downgrade --yes"])
    def test_is_not_read_for_a_superuser(self, strange: URL, words: str) -> None:
        done = command(*DAGBUMP, *words.split(), DAGBUMP_URL=libpq(strange), PGOPTIONS="-c lock_timeout=5s")
        assert done.returncode == 1
        assert "schema dagbump belongs to dagbump_stranger" in " ".join(done.stderr.split())

    @pytest.mark.parametrize("words", [*COMMANDS, "history", "repair --yes"])
    def test_is_not_read_for_an_ordinary_role(self, strange: URL, words: str) -> None:
        passer_by = strange.set(username=PASSER_BY, password=PASSER_BY)
        done = command(*DAGBUMP, *words.split(), DAGBUMP_URL=libpq(passer_by), PGOPTIONS="-c lock_timeout=5s")
        assert done.returncode != 0
        assert "dagbump_stranger" in done.stdout + done.stderr
