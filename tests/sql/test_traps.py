"""No function runs a stranger's code: each is called in a database full of traps (support/traps.py).

The catalog lists the functions and their arguments. So a new function is tested without a change here, and an argument
with a new name fails until there are values for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import dagbump
import psycopg
import pytest
from dagbump.installation import sql_files
from psycopg import sql
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine
from support import traps
from support.server import Server, libpq

Connection = psycopg.Connection[Any]

ROUTINES = [
    path.stem for path in sorted(sql_files.SOURCES.glob("*.sql")) if f"dagbump.{path.stem}(" in path.read_text("utf-8")
]
# Values for each argument. The first one gives the function something to do; some of the others are refused.
VALUES: dict[str, list[str]] = {
    "batch_size": ["1", "1000", "0", "NULL"],
    "caller": ["'somebody'", "NULL"],
    "caller_verifies": ["TRUE", "FALSE", "NULL"],
    "dag_id": ["'d'"],
    "dag_ids": ["'{d,paused,no_version}'", "'{}'", "'{NULL}'", "'{{d},{e}}'", "NULL"],
    "dag_run_id": ["1", "NULL"],
    "dag_run_ids": ["'{1,2,3,4,5}'", "'{}'", "'{NULL}'", "'{{1},{2}}'", "NULL"],
    "dag_version_id": ["(SELECT id FROM public.dag_version LIMIT 1)", "NULL"],
    "days": ["7", "0", "NULL"],
    "keep": ["'00:00:00'", "'90 days'", "'1000000 years'", "'-1 day'", "NULL"],
    "max_runs": ["2", "0", "-1", "NULL"],
    "number": ["3", "0", "1000000000", "NULL"],
    "older": ["ARRAY(SELECT id FROM public.dag_version)", "'{}'"],
    "page": ["1", "0", "NULL"],
    "page_size": ["2", "0", "NULL"],
    "report_all": ["TRUE", "FALSE", "NULL"],
    "role": [f"'{traps.OPERATOR}'", f"'{traps.OWNER}'", "'public'", "'nobody'", "NULL"],
    "run_id": ["'landed'"],
    "search": ["'a'", "''", "NULL"],
    "tables": ["'{public.task_instance,public.dag}'"],
    "to_verify": ["TRUE", "FALSE"],
    "topic": ["'bump'", "'nothing'", "NULL"],
}
# Errors that a call may end with: a meaningless argument, a role that does not exist, a missing right.
EXPECTED = {"22023", "42501", "42704"}
LOCKS = {
    "nothing": "SELECT",
    "a TI": "SELECT FROM public.task_instance WHERE task_id = 'b' AND map_index = 0 FOR UPDATE",
    "a version": "SELECT FROM public.dag_version FOR UPDATE",
}
# Names that a caller's temporary tables could hide.
RELATIONS = (
    *("dag", "dag_run", "dag_version", "history", "installation", "serialized_dag", "task_instance"),
    *("pg_attribute", "pg_class", "pg_constraint", "pg_index", "pg_namespace", "pg_proc", "pg_roles", "pg_type"),
)
IS_OURS = "pronamespace = 'dagbump'::regnamespace"


@pytest.fixture
def trapped(postgres: Server, trapped_template: str) -> Iterator[URL]:
    with postgres.temporary_database(trapped_template) as url:
        yield url


def without_traps(url: URL) -> closing[Connection]:
    """Open a session of a superuser's whose path leads to no trap."""
    return closing(psycopg.connect(libpq(url), options="-c search_path=pg_catalog"))


def calls(connection: Connection, routine: str) -> Iterator[sql.Composed]:
    """Yield calls that together use each value of each argument. Optional arguments are also left out."""
    query = (
        f"SELECT prokind::text, proargnames[:pronargs], pronargdefaults FROM pg_proc WHERE {IS_OURS} AND proname = %s"
    )
    ((kind, names, defaults),) = connection.execute(query.encode(), (routine,)).fetchall()
    call = sql.SQL("CALL {}({})" if kind == "p" else "SELECT * FROM {}({})")
    names = names or []
    required = names[: len(names) - defaults]
    first = {name: VALUES[name][0] for name in names}

    def called(arguments: dict[str, str]) -> sql.Composed:
        given = (sql.SQL("{} => ").format(sql.Identifier(name)) + sql.SQL(value) for name, value in arguments.items())
        return call.format(sql.Identifier("dagbump", routine), sql.SQL(", ").join(given))

    yield call.format(sql.Identifier("dagbump", routine), sql.SQL(", ").join(map(sql.SQL, first.values())))
    yield called({name: first[name] for name in required})
    for name in names:
        for value in VALUES[name]:
            yield called({**first, name: value})
            yield called({other: first[other] for other in required} | {name: value})


def test_each_function_is_called(trapped: URL) -> None:
    with without_traps(trapped) as connection:
        (there,) = zip(*connection.execute(f"SELECT proname FROM pg_proc WHERE {IS_OURS}".encode()), strict=True)
    assert sorted(there) == ROUTINES


@pytest.mark.parametrize("role", [traps.OWNER, traps.OPERATOR])
@pytest.mark.parametrize("routine", ROUTINES)
def test_no_trap_is_sprung(trapped: URL, routine: str, role: str) -> None:
    with (
        without_traps(trapped) as holder,
        closing(psycopg.connect(libpq(traps.as_role(trapped, role)), autocommit=True)) as caller,
    ):
        for relation in RELATIONS:
            caller.execute(sql.SQL("CREATE TEMPORARY TABLE {} ()").format(sql.Identifier(relation)))
        caller.execute("SET search_path = hostile, pg_temp, pg_catalog, public")
        statements = list(calls(holder, routine))
        for lock in LOCKS.values():
            holder.execute(lock.encode())
            done = [ended(caller, statement) for statement in statements]
            holder.rollback()
        assert done.count(None) > 0 or (role == traps.OPERATOR and set(done) == {"42501"})


def ended(caller: Connection, statement: sql.Composed) -> str | None:
    """Return the error of a call, None if it succeeded. Its writes are rolled back, except those of a procedure, which
    commits.
    """
    text = statement.as_string()
    try:
        if text.startswith("CALL"):
            caller.execute(statement)
        else:
            with caller.transaction(force_rollback=True):
                caller.execute(statement)
    except psycopg.Error as error:
        if error.sqlstate not in EXPECTED:
            raise AssertionError(text) from error
        return error.sqlstate
    return None


ARGUMENTS: dict[str, Any] = {"dag_run_ids": [1, 2, 3], "dag_ids": ["d", "paused"], "max_runs": 9, "caller": "somebody"}


@pytest.mark.parametrize("given", [{}, *({name: value} for name, value in ARGUMENTS.items()), ARGUMENTS], ids=",".join)
def test_what_asyncpg_asks_because_of_a_call_springs_none(trapped: URL, given: dict[str, Any]) -> None:
    """It looks a type up that it does not know, bigint[] for one, and compares an oid with an integer."""

    async def call() -> dagbump.BumpResult:
        engine = create_async_engine(traps.as_role(trapped, traps.OPERATOR).set(drivername="postgresql+asyncpg"))
        try:
            async with engine.begin() as connection:
                return await dagbump.abump(connection, **given, caller_verifies=True)
        finally:
            await engine.dispose()

    assert asyncio.run(call()).bumped > 0


def test_no_statement_would_spring_one(trapped: URL) -> None:
    """Not even one that no call above gets to."""
    with without_traps(trapped) as connection:
        if not connection.execute("SELECT FROM pg_available_extensions WHERE name = 'plpgsql_check'").fetchall():
            pytest.skip("this server has no plpgsql_check; the containers of CI have")
        connection.execute("CREATE SCHEMA checking; CREATE EXTENSION plpgsql_check SCHEMA checking")
        query = f"""
            SELECT pg_proc.oid::regprocedure::text, used.type, used.schema, used.name, used.params
            FROM pg_proc
            CROSS JOIN checking.plpgsql_show_dependency_tb(pg_proc.oid::regprocedure) AS used
            WHERE {IS_OURS} AND used.type IN ('FUNCTION', 'OPERATOR') AND used.schema NOT IN ('dagbump', 'pg_catalog')
        """
        assert connection.execute(query.encode()).fetchall() == []
