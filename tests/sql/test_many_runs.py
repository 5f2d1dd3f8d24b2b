"""The work of the functions grows with the number of running DAG runs, not with its square.

The tables have no statistics, or statistics from the time when they were nearly empty. auto_explain reports the plan of
each statement inside the functions. The tests count the rows that each node returned or removed, over all its loops.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dagbump
import psycopg
import pytest
from dagbump import client
from support.fleet import Fleet, serialized_dag
from support.optional_index import build_optional_index

Connection = psycopg.Connection[Any]

RUNS = 300
# The number of DAGs that share the runs, with the number of tasks of each. A single DAG has many tasks, because for a
# small table without statistics PostgreSQL estimates the same cost for the index on dag_id as for the one on (dag_id,
# run_id).
DAGS = {1: 100, 100: 20}
# Several nodes above each other may return the same row of task_instance, and a few statements may read it.
AT_MOST_PER_TI = 4

WORK: dict[str, Callable[[Connection], object]] = {
    "preview": dagbump.preview,
    "bump": lambda connection: dagbump.bump(connection, caller_verifies=True),
    "safe bump": dagbump.bump,
    "holders": dagbump.holders,
    "versions": dagbump.versions,
    "verify_scope": lambda connection: client.verify_scope(connection, range(1, 100 * RUNS)),
    "repairable": client.repairable,
    "running": client.running,
    "running, with a search": lambda connection: client.running(connection, search="T1"),
    "versions_by_day": client.versions_by_day,
    "versions_of_runs": lambda connection: client.versions_of_runs(connection, range(1, 100 * RUNS)),
}


TABLES = ("task_instance", "dag_run", "dag", "dag_version", "serialized_dag")
FORGET = """
    DELETE FROM pg_statistic WHERE starelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace);
    UPDATE pg_class SET reltuples = -1, relpages = 0
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i');
"""


@pytest.fixture(params=["never analyzed", "analyzed when it was next to empty"])
def statistics(request: pytest.FixtureRequest, fleet: Fleet) -> str:
    for table in TABLES:
        fleet.connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())
    return str(request.param)


@pytest.fixture(params=[pytest.param(1, marks=pytest.mark.slow), 100], ids=["of one DAG", "of many DAGs"])
def many_runs(request: pytest.FixtureRequest, fleet: Fleet, statistics: str) -> int:
    """Make runs of stale TIs; the server looked at the tables when there was one, or never. Return how many TIs."""
    dags: int = request.param
    first = make_run(fleet, "d0", DAGS[dags])
    fleet.connection.execute(FORGET if statistics == "never analyzed" else "ANALYZE")
    with fleet.connection.transaction():
        for run in (first, *(make_run(fleet, f"d{number}", DAGS[dags]) for number in range(1, dags))):
            fleet.copy_run(run, RUNS // dags - 1)
    return RUNS * DAGS[dags]


def make_run(fleet: Fleet, dag_id: str, number_of_tasks: int) -> int:
    old, latest = fleet.dag(dag_id, versions=2)
    tasks = [f"t{number}" for number in range(number_of_tasks)]
    fleet.serialize(latest, serialized_dag(tasks))
    run = fleet.run(dag_id)
    for task_id in tasks:
        fleet.ti(run, old, "scheduled", task_id=task_id)
    return run


@pytest.mark.parametrize("indexed", [False, True], ids=["without the index", "with the index"])
def test_no_function_compares_each_run_with_each(
    connection: Connection, fleet: Fleet, many_runs: int, indexed: bool
) -> None:
    if indexed:
        build_optional_index(fleet.connection)
    done = {name: busiest_node(connection, work) for name, work in WORK.items()}
    assert {name: rows for name, rows in done.items() if rows > AT_MOST_PER_TI * many_runs} == {}


def busiest_node(connection: Connection, work: Callable[[Connection], object]) -> int:
    """Do some work, take it back, and return how many rows the busiest node of all its plans had to do with."""
    with explained(connection) as plans:
        work(connection)
    connection.rollback()
    assert plans
    return max(rows for plan in plans for rows in rows_of(plan))


@contextmanager
def explained(connection: Connection) -> Iterator[list[dict[str, Any]]]:
    """Collect the plans of all statements of the block, those inside functions included."""
    plans: list[dict[str, Any]] = []

    def collect(notice: psycopg.errors.Diagnostic) -> None:
        _, plan, text = (notice.message_primary or "").partition("plan:\n")
        if plan:
            plans.append(json.loads(text)["Plan"])

    connection.add_notice_handler(collect)
    try:
        connection.execute("LOAD 'auto_explain'")
    except psycopg.errors.UndefinedFile:
        pytest.skip("this server does not bring auto_explain, as the containers do")
    for setting in ("log_min_duration = 0", "log_analyze = on", "log_timing = off", "log_nested_statements = on"):
        connection.execute(f"SET LOCAL auto_explain.{setting}".encode())
    connection.execute("SET LOCAL auto_explain.log_format = json")
    connection.execute("SET LOCAL client_min_messages = log")
    try:
        yield plans
    finally:
        connection.remove_notice_handler(collect)


def rows_of(node: dict[str, Any]) -> Iterator[int]:
    """Yield how many rows each node of a plan answered or threw away."""
    if node["Node Type"] == "Seq Scan" and node["Relation Name"] in {"dag", "dag_version"}:
        return  # where versions may: a few pages are as quickly read as an index
    rows = node["Actual Rows"] + node.get("Rows Removed by Join Filter", 0) + node.get("Rows Removed by Filter", 0)
    yield round(rows * node["Actual Loops"])
    for below in node.get("Plans", ()):
        yield from rows_of(below)
