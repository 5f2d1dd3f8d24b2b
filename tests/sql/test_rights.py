"""The settings and rights of the functions, as the catalog shows them."""

from __future__ import annotations

from typing import Any

import dagbump
import psycopg
import pytest
from dagbump import client
from dagbump.database import create_engine
from dagbump.installation import installer
from psycopg import sql
from sqlalchemy.engine import URL
from support.fleet import Fleet
from support.server import Connect, libpq

pytestmark = pytest.mark.server

Connection = psycopg.Connection[Any]

FUNCTIONS = """
    SELECT oid::regprocedure::text AS name, prokind::text, proconfig, prosecdef, proacl, proowner,
           pg_get_functiondef(oid) AS source, obj_description(oid, 'pg_proc') AS comment
    FROM pg_proc WHERE pronamespace = 'dagbump'::regnamespace
"""


@pytest.fixture
def functions(connection: Connection) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        return cursor.execute(FUNCTIONS).fetchall()


def test_every_search_path_is_pinned_with_pg_temp_last(functions: list[dict[str, Any]]) -> None:
    assert functions
    for function in functions:
        if (
            function["prokind"] == "p"
        ):  # it commits, and so may carry no setting; it is called among traps, in test_traps
            assert (function["proconfig"], function["prosecdef"]) == (None, False), function["name"]
        else:
            assert "search_path=public, pg_temp" in function["proconfig"], function["name"]


def test_each_function_that_must_run_as_its_owner_is_missed_if_it_does_not(
    connection: Connection, functions: list[dict[str, Any]]
) -> None:
    """parts/foreign_objects.sql names these functions, so a new one has to be added there."""
    as_owner = [function["name"] for function in functions if function["prosecdef"]]
    for name in as_owner:
        connection.execute(f"ALTER FUNCTION {name} SECURITY INVOKER".encode())
    ((found,),) = connection.execute("SELECT detail FROM dagbump.check() WHERE item = 'owner'").fetchall()
    assert [name for name in as_owner if f"{name.partition('(')[0]} does not run as its owner" not in found] == []


def test_everything_has_a_comment(connection: Connection, functions: list[dict[str, Any]]) -> None:
    for function in functions:
        assert len(function["comment"]) > 100, function["name"]
    uncommented = connection.execute(
        """
        SELECT relname FROM pg_class
        WHERE relnamespace = 'dagbump'::regnamespace AND relkind IN ('r', 'v', 'm', 'S')
        AND obj_description(oid, 'pg_class') IS NULL
        """
    ).fetchall()
    assert uncommented == []
    assert connection.execute("SELECT obj_description('dagbump'::regnamespace)").fetchone() != (None,)


def granted_to_public(connection: Connection) -> list[str]:
    connection.execute("CREATE ROLE nobody_in_particular")
    granted = connection.execute(
        """
        SELECT oid::regprocedure::text FROM pg_proc
        WHERE pronamespace = 'dagbump'::regnamespace AND has_function_privilege('nobody_in_particular', oid, 'EXECUTE')
        UNION ALL
        SELECT oid::regclass::text FROM pg_class
        WHERE relnamespace = 'dagbump'::regnamespace AND relkind = 'r'
        AND has_table_privilege('nobody_in_particular', oid, 'SELECT')
        UNION ALL
        SELECT 'schema' WHERE has_schema_privilege('nobody_in_particular', 'dagbump', 'USAGE')
        """
    ).fetchall()
    connection.rollback()
    return [name for (name,) in granted]


def test_nothing_is_granted_to_public(connection: Connection) -> None:
    assert granted_to_public(connection) == []


def test_an_upgrade_takes_from_public_what_somebody_has_granted(connection: Connection, database: URL) -> None:
    connection.execute(
        """
        GRANT ALL ON SCHEMA dagbump TO PUBLIC;
        GRANT ALL ON ALL TABLES IN SCHEMA dagbump TO PUBLIC;
        GRANT ALL ON ALL ROUTINES IN SCHEMA dagbump TO PUBLIC;
        """
    )
    connection.commit()
    installer.upgrade(create_engine(libpq(database)))
    assert granted_to_public(connection) == []


def test_a_role_with_execute_only_can_bump_and_cannot_write_the_table(fleet: Fleet, connection: Connection) -> None:
    old, new = fleet.dag("d", versions=2)
    run = fleet.run("d")
    fleet.ti(run, new, "success")
    fleet.ti(run, old, "queued")
    connection.execute("CREATE ROLE operator_of_airflow")
    connection.execute("GRANT USAGE ON SCHEMA dagbump TO operator_of_airflow")
    connection.execute(
        "GRANT EXECUTE ON FUNCTION dagbump.bump, dagbump.preview, dagbump.verify_scope TO operator_of_airflow"
    )
    connection.execute("SET ROLE operator_of_airflow")

    assert dagbump.preview(connection)[0].stale == 1
    assert [row.dag_run_id for row in client.verify_scope(connection, [run])] == [run]
    assert dagbump.bump(connection).bumped == 1
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("UPDATE public.task_instance SET dag_version_id = NULL")


def test_a_role_without_rights_is_told_so(connection: Connection) -> None:
    connection.execute("CREATE ROLE nobody_in_particular")
    connection.execute("SET ROLE nobody_in_particular")
    with pytest.raises(dagbump.InsufficientPrivilege, match="permission denied"):
        dagbump.bump(connection)


def test_a_callers_temporary_tables_change_nothing(fleet: Fleet, connect: Connect) -> None:
    old, new = fleet.dag("d", versions=2)
    run = fleet.run("d")
    fleet.ti(run, new, "success")
    stale = fleet.ti(run, old, "queued")
    caller = connect()
    for table in ("task_instance", "dag_run", "dag", "dag_version", "serialized_dag"):
        caller.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} AS TABLE public.{} WITH NO DATA").format(*[sql.Identifier(table)] * 2)
        )

    assert dagbump.preview(caller)[0].verdict == "bump"
    assert dagbump.bump(caller).bumped == 1
    caller.commit()
    assert fleet.versions_of([stale]) == [new]


def test_plpgsql_check_finds_nothing(connection: Connection) -> None:
    available = connection.execute("SELECT FROM pg_available_extensions WHERE name = 'plpgsql_check'").fetchone()
    if available is None:
        pytest.skip("this server has no plpgsql_check; the containers of CI have")
    connection.execute("CREATE EXTENSION plpgsql_check")
    findings = connection.execute(
        """
        SELECT function.oid::regprocedure::text, finding
        FROM pg_proc AS function
        JOIN pg_language AS language ON language.oid = function.prolang
        CROSS JOIN LATERAL plpgsql_check_function(function.oid::regprocedure, all_warnings => TRUE) AS finding
        WHERE function.pronamespace = 'dagbump'::regnamespace AND language.lanname = 'plpgsql'
        """
    ).fetchall()
    expected = (
        # That it does not work is what the procedure finds out with it: whether it is called in a transaction block.
        ("dagbump.repair(", "COMMIT:cannot commit while a subtransaction is active"),
        # The plan of the call depends on it; the function does not.
        ("dagbump.tables_fit(", 'unused parameter "tables"'),
        # On purpose: what is counted is counted for every DAG, whichever are asked for.
        ("dagbump.versions(", "parameter"),
    )
    assert [
        (function, finding)
        for function, finding in findings
        if not any(function.startswith(name) and said in finding for name, said in expected)
    ] == []
