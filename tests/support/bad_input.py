"""What tests of bad input have in common: any text, and whether something was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from support import proof

TITLE = "Bad input"
COMMAND = 'make prove ARGS="-k bad"'
_TRICKY = st.sampled_from(
    [
        "",
        " ",
        "'",
        '"',
        "''; DROP SCHEMA dagbump",
        "\\",
        "\\'",
        "$$",
        "%s",
        "%",
        "{}",
        "{1,NULL}",
        "\n",
        "\t",
        "NULL",
        ":name",
        "é",
        "\u202e",
        "😀",
        "x" * 100_000,
    ]
)
_WRITTEN = """
    SELECT
        (SELECT md5(string_agg(ti::text, ',' ORDER BY ti.id)) FROM task_instance AS ti),
        (SELECT md5(string_agg(run::text, ',' ORDER BY run.id)) FROM dag_run AS run),
        (SELECT md5(string_agg(entry::text, ',' ORDER BY entry::text)) FROM dagbump.history AS entry),
        (SELECT md5(string_agg(row::text, ',')) FROM dagbump.installation AS row),
        (SELECT md5(string_agg(proacl::text, ',' ORDER BY oid))
            FROM pg_proc WHERE pronamespace = 'dagbump'::regnamespace),
        (SELECT md5(string_agg(relname || coalesce(relacl::text, ''), ',' ORDER BY oid))
            FROM pg_class WHERE relkind IN ('r', 'i')),
        (SELECT md5(string_agg(nspname || coalesce(nspacl::text, ''), ',' ORDER BY oid))
            FROM pg_namespace WHERE nspname !~ '^pg_')
"""


def texts() -> SearchStrategy[str]:
    """Any text that PostgreSQL can hold."""
    characters = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
    return _TRICKY | st.text(characters, max_size=40)


def generated(examples: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Try as many examples: the same ones each time, but others in the long form."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=not proof.LONG,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    )


def written(connection: psycopg.Connection[Any]) -> Any:
    """Return what differs after something was written."""
    return connection.execute(_WRITTEN.encode()).fetchone()
