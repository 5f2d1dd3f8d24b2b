"""Whatever the arguments of a function are: an answer, or an error that its COMMENT names, and then nothing is written.

The functions are those of the catalog, without the internal ones, which only others of them call.
`make prove ARGS="-k bad"` tries more.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from psycopg import sql
from support import bad_input, example_fleet, proof
from support.fleet import Fleet

pytestmark = [pytest.mark.once, pytest.mark.slow, pytest.mark.proof]

ROUTINES = """
    SELECT oid::regprocedure::text, proname, prokind = 'p', obj_description(oid, 'pg_proc'), arguments.names,
        proargtypes::regtype[]::text[], pronargs - pronargdefaults, has_function_privilege(%s, oid, 'EXECUTE')
    FROM pg_proc
    CROSS JOIN LATERAL (
        SELECT coalesce(array_agg(name ORDER BY place), '{}') AS names
        FROM unnest(proargnames, proargmodes) WITH ORDINALITY AS argument (name, mode, place)
        WHERE mode IS NULL OR mode IN ('i', 'b')
    ) AS arguments
    WHERE pronamespace = 'dagbump'::regnamespace AND obj_description(oid, 'pg_proc') NOT LIKE 'Internal:%%'
    ORDER BY 1
"""
EXAMPLES = 400 if proof.LONG else 20
IDS = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 60)
INTEGERS = st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 60)
WORDS = st.sampled_from(
    [*example_fleet.NAMED, "PUBLIC", "public", "pg_monitor", "locks", "session_user", "\u202e' OR 1=1"]
)
TEXTS = bad_input.texts() | WORDS


def arrays(elements: SearchStrategy[Any], of_many: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """Also with NULL, of more than one dimension, with another lower bound, and huge."""
    lists = st.lists(elements | st.none(), max_size=5)
    nested = st.integers(1, 3).flatmap(
        lambda size: st.lists(st.lists(elements, min_size=size, max_size=size), max_size=3)
    )
    return lists | nested | of_many | st.sampled_from(["{}", "[5:6]={1,2}", "[-1:-1]={NULL}", "{{{1}}}"])


VALUES: Mapping[str, SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "integer": INTEGERS,
    "bigint": IDS,
    "text": TEXTS,
    "bigint[]": arrays(IDS, st.integers(1, 20_000).map(lambda size: list(range(size)))),
    "text[]": arrays(TEXTS, st.integers(1, 20_000).map(lambda size: [f"dag {number}" for number in range(size)])),
    "uuid": st.uuids().map(str),
    "uuid[]": arrays(st.uuids(), st.just("{}")).filter(lambda value: "1" not in value),
    "regclass[]": st.sampled_from(
        ["{}", "{pg_class}", "{task_instance,dag_run}", "{0}", "{4294967295}", "{NULL}", "{{1}}"]
    ),
    "interval": st.sampled_from(
        [
            "1 month",
            "-1 month",
            "1 month -40 days",
            "178000000 years",
            "-178000000 years",
            "0",
            "1000000000 s",
            "infinity",
            "-infinity",
            "1 day",
            "5000000 days",
        ]
    ),
    "timestamp with time zone": st.sampled_from(["infinity", "-infinity", "now", "4713-01-01 BC", "294276-12-31"]),
}


@dataclass(frozen=True)
class Routine:
    """A function or procedure of schema dagbump."""

    signature: str
    name: str
    is_procedure: bool
    comment: str
    names: list[str]
    types: list[str]
    required: int
    for_operators: bool

    def arguments(self) -> SearchStrategy[dict[str, Any]]:
        """Any values for the required arguments, and for some of the others."""
        values = {name: st.none() | VALUES[type_] for name, type_ in zip(self.names, self.types, strict=True)}
        required = self.names[: self.required]
        return st.fixed_dictionaries(
            {name: values[name] for name in required},
            optional={name: value for name, value in values.items() if name not in required},
        )

    def call(self, given: Mapping[str, Any]) -> tuple[sql.Composed, list[Any]]:
        types = dict(zip(self.names, self.types, strict=True))
        passed = [sql.SQL("{} => %s::{}").format(sql.Identifier(name), sql.SQL(types[name])) for name in given]
        begin = sql.SQL("CALL" if self.is_procedure else "SELECT * FROM")
        call = sql.SQL("{} dagbump.{}({})").format(begin, sql.Identifier(self.name), sql.SQL(", ").join(passed))
        return call, list(given.values())

    def named_errors(self, routines: Mapping[str, Routine]) -> set[str]:
        """The SQLSTATEs that the COMMENT names, also by the name of another function."""
        errors = self.comment.partition("rrors:")[2]
        others = [
            routines[name] for name in re.findall(r"dagbump\.(\w+)", errors) if name in routines and name != self.name
        ]
        own = set(re.findall(r"\b[0-9A-Z]{5}\b", errors))
        return own.union(*(other.named_errors(routines) for other in others))


@pytest.fixture
def tried() -> Iterator[Counter[str]]:
    counted: Counter[str] = Counter()
    yield counted
    proof.record(bad_input.TITLE, bad_input.COMMAND, counted)


def test_any_arguments(fleet: Fleet, role: str, tried: Counter[str]) -> None:
    example_fleet.make(fleet)
    fleet.execute("SELECT dagbump.grant_operator(%s)", role)
    fleet.execute("SET statement_timeout = '20s'")
    routines = {row[1]: Routine(*row) for row in fleet.connection.execute(ROUTINES, (role,))}
    assert len(routines) > 10

    for routine in routines.values():
        # Before PostgreSQL 17, an infinite interval is refused before the call, with 22007.
        allowed = {"22023", "22007"} | routine.named_errors(routines)
        for who, role_ in (("the owner", "NONE"), ("an operator", role)):
            if who == "the owner" or routine.for_operators:
                tried[f"calls of functions, as {who}"] += try_calls(fleet.connection, routine, role_, allowed)


def try_calls(connection: psycopg.Connection[Any], routine: Routine, role: str, allowed: set[str]) -> int:
    """Call it with any arguments, as a role; return how often."""
    tried = 0

    @bad_input.generated(EXAMPLES if routine.names else 1)
    @given(routine.arguments())
    def answers_or_refuses(given: dict[str, Any]) -> None:
        nonlocal tried
        before = bad_input.written(connection)
        error = error_of(connection, role, *routine.call(given))
        tried += 1
        if error:
            assert error.sqlstate in allowed, f"{routine.signature}: {error.sqlstate} {error}"
            said = f"{error.diag.message_primary}\n{error.diag.message_hint}"
            assert not re.search(r"PL/pgSQL|SQL statement|at character", said), said
            assert bad_input.written(connection) == before

    answers_or_refuses()
    return tried


def error_of(
    connection: psycopg.Connection[Any], role: str, call: sql.Composed, values: list[Any]
) -> psycopg.Error | None:
    connection.execute(f"SET ROLE {role}".encode())
    try:
        connection.execute(call, values)
    except psycopg.Error as error:
        return error
    finally:
        connection.execute("RESET ROLE")
    return None
