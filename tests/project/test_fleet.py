"""The tests' own vocabulary makes the same states on every release, however it keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy.engine import URL
from support.fleet import Fleet
from support.releases import environments
from support.server import libpq
from typing_extensions import LiteralString

Row = dict[str, Any]

PAST_TRIES_ARE_TIS = environments.number() >= (3, 4)


@pytest.fixture
def fleet(airflow_database: URL) -> Iterator[Fleet]:
    with psycopg.connect(libpq(airflow_database), autocommit=True) as connection:
        yield Fleet(connection)


def rows(fleet: Fleet, query: LiteralString, *parameters: Any) -> list[Row]:
    with fleet.connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, parameters).fetchall()


def past_tries(fleet: Fleet) -> dict[UUID, Row]:
    """Return the past tries by id, with the names that Airflow 3.3 has for their columns."""
    if PAST_TRIES_ARE_TIS:
        found = rows(fleet, "SELECT *, region_index AS map_index FROM task_instance WHERE working_set IS NULL")
    else:
        found = rows(fleet, "SELECT *, task_instance_id AS id FROM task_instance_history")
    return {row["id"]: row for row in found}


def test_a_past_try_is_one_of_the_task_instance_beside_the_live_one(fleet: Fleet) -> None:
    old, new = fleet.dag("d", versions=2)
    run = fleet.run("d", "r")
    mapped = fleet.ti(run, new, "running", task_id="m", map_index=3)
    past = fleet.past_try(mapped, old)

    (live,) = rows(fleet, "SELECT * FROM task_instance WHERE id = %s", mapped)
    assert (live["state"], live["dag_version_id"]) == ("running", new)
    assert live.get("working_set", True) is True
    assert live["region_index" if PAST_TRIES_ARE_TIS else "map_index"] == 3

    row = past_tries(fleet)[past]
    assert (row["dag_id"], row["run_id"], row["task_id"], row["map_index"]) == ("d", "r", "m", 3)
    assert (row["state"], row["dag_version_id"]) == ("failed", old)
    assert row.get("archived_reason", "retry") == "retry"


def test_there_can_be_many_past_tries_in_any_state(fleet: Fleet) -> None:
    """From Airflow 3.4 on, one that was superseded keeps the state that it had, even an unfinished one."""
    (only,) = fleet.dag("d", versions=1)
    ti = fleet.ti(fleet.run("d"), only, "queued", try_number=2)
    states = ("failed", None, "scheduled", "up_for_retry")
    past = [fleet.past_try(ti, None, state, archived_reason="superseded") for state in states]

    found = past_tries(fleet)
    assert [found[one]["state"] for one in past] == list(states)
    assert len({found[one]["try_number"] for one in past}) == len(states)
    assert {found[one].get("archived_reason", "superseded") for one in past} == {"superseded"}
