"""Every function refuses a meaningless argument with the same words, and names the argument."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

WITH_LISTS = """
    SELECT prokind::text, proname, argument.name, argument.type, pronargs - pronargdefaults
    FROM pg_proc
    CROSS JOIN LATERAL unnest(proargnames, proargtypes::regtype[]::text[]) AS argument (name, type)
    WHERE pronamespace = 'dagbump'::regnamespace AND argument.name IN ('dag_ids', 'dag_run_ids')
"""


@pytest.mark.parametrize(
    ("value", "said"), [("{1,NULL}", "must not contain NULL"), ("{{1},{2}}", "must not be an array of arrays")]
)
def test_a_list_that_means_nothing(connection: psycopg.Connection[Any], value: str, said: str) -> None:
    connection.autocommit = True
    with_lists = connection.execute(WITH_LISTS).fetchall()
    assert len(with_lists) > 10
    for kind, routine, argument, type_, required in with_lists:
        call = "CALL" if kind == "p" else "SELECT * FROM"
        others = ", batch_size => 3" if required > 1 else ""
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=f"{argument} {said}"):
            connection.execute(f"{call} dagbump.{routine}({argument} => '{value}'::{type_}{others})".encode())


@pytest.mark.parametrize("keep", ["1000000 years", "-1 day", None])
def test_a_time_to_keep_that_means_nothing(connection: psycopg.Connection[Any], keep: str | None) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="keep "):
        connection.execute("SELECT dagbump.prune_history(%s::interval)", (keep,))
