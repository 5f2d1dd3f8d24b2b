"""Fleets, created by Airflow's own code, and changes to them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
from support.fleet import Fleet
from support.releases.worker import Worker
from typing_extensions import LiteralString

from benchmarks.plan import FleetSize

Connection = psycopg.Connection[Any]

DAG_ID = "fleet"
# In a larger fleet Airflow creates only one run, and SQL copies it.
_MOST_TIS_BY_AIRFLOW = 10_000

# Chains of ten tasks.
_DAG_FILE = """\
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("{dag_id}", schedule=None):
    for number in range({tasks}):
        task = BashOperator(task_id=f"task_{{number:05}}", bash_command="true")
        if number % 10:
            before >> task
        before = task
"""
# An additional task, mapped over ten values.
MAPPED_TASK = """\
    BashOperator.partial(task_id="mapped_9").expand(bash_command=["true"] * 10)
"""

# In each chain of ten TIs, four have finished, one is running and five wait for it, so a scheduler has nothing to do.
_SET_STATES = """
    UPDATE task_instance
    SET state = CASE WHEN right(task_id, 1) < '4' THEN 'success' WHEN right(task_id, 1) = '4' THEN 'running' END,
        start_date = CASE WHEN right(task_id, 1) <= '4' THEN now() END,
        end_date = CASE WHEN right(task_id, 1) < '4' THEN now() END,
        scheduled_dttm = CASE WHEN right(task_id, 1) <= '4' THEN now() END,
        updated_at = now()
"""
_LATEST: LiteralString = "(SELECT id FROM dag_version ORDER BY version_number DESC LIMIT 1)"
_STALE: LiteralString = f"""
    FROM task_instance
    WHERE coalesce(state, '') NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')
    AND dag_version_id IS DISTINCT FROM {_LATEST}
"""
# Copies the newest row of a table for each run, with some other values.
_COPY_FOR_EACH_RUN = """
    INSERT INTO {0}
    SELECT copy.*
    FROM dag_run AS run
    CROSS JOIN (SELECT * FROM {0} ORDER BY {1} DESC LIMIT 1) AS newest
    CROSS JOIN LATERAL jsonb_populate_record(newest::{0}, jsonb_build_object('dag_id', run.run_id, {2})) AS copy
"""
_NEW_ID = "'id', md5(run.run_id)::uuid"
_SPLIT_DAG = (
    "SET session_replication_role = replica",  # turns foreign keys off
    _COPY_FOR_EACH_RUN.format("dag", "dag_id", "'is_stale', false"),
    _COPY_FOR_EACH_RUN.format("dag_version", "version_number", _NEW_ID),
    _COPY_FOR_EACH_RUN.format(
        "serialized_dag", "created_at", f"{_NEW_ID}, 'dag_version_id', md5(run.run_id)::uuid, 'dag_hash', run.run_id"
    ),
    "UPDATE task_instance SET dag_id = run_id, dag_version_id = md5(run_id)::uuid",
    "UPDATE dag_run SET dag_id = run_id",
    "RESET session_replication_role",
    "VACUUM (ANALYZE)",
)


def write_dag(tasks: int, worker: Worker, more_tasks: str = "") -> None:
    """Let Airflow write a version of the DAG into the worker's database."""
    worker("write_dag", file=f"{DAG_ID}.py", source=_DAG_FILE.format(dag_id=DAG_ID, tasks=tasks) + more_tasks)


def finish_task(number: int, connection: Connection) -> None:
    """Let the task with this number, counted from 1, succeed in each run."""
    connection.execute("UPDATE task_instance SET state = 'success' WHERE task_id = %s", (f"task_{number - 1:05}",))


def make(size: FleetSize, worker: Worker, connection: Connection, more_tasks: str = "") -> None:
    """Create the fleet in the worker's database. The connection is to the same database."""
    write_dag(size.tis, worker, more_tasks)
    by_airflow = size.runs if size.runs * size.tis <= _MOST_TIS_BY_AIRFLOW else 1
    for number in range(by_airflow):
        run = worker("create_run", dag_id=DAG_ID, run_id=f"run_{number}")
    if by_airflow < size.runs:
        Fleet(connection).copy_run(run, size.runs - by_airflow)
    connection.execute(_SET_STATES)
    connection.execute("VACUUM (FULL) task_instance")  # removes the dead rows of that UPDATE
    connection.execute("VACUUM (ANALYZE)")


def scalar(connection: Connection, query: LiteralString) -> Any:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def latest_version(connection: Connection) -> UUID:
    version: UUID = scalar(connection, f"SELECT {_LATEST}")
    return version


def change_version(connection: Connection) -> UUID:
    """Add a version of the DAG: a copy of the latest one, with a new number."""
    return Fleet(connection).copy_latest_version(DAG_ID)


def make_stale(connection: Connection) -> None:
    """Add a version. Airflow takes the runs for verified, while their unfinished TIs stay on the old version."""
    change_version(connection)
    connection.execute(f"UPDATE task_instance SET dag_version_id = {_LATEST} WHERE state = 'success'")
    connection.execute("VACUUM (ANALYZE)")


def count_stale(connection: Connection) -> int:
    """Count the stale TIs. The fleet has one DAG."""
    return int(scalar(connection, f"SELECT count(*) {_STALE}"))


def stale_ids(connection: Connection) -> str:
    """Return the ids of the stale TIs as the text of an array, which psycopg would take long to build."""
    return str(scalar(connection, f"SELECT coalesce(array_agg(id), '{{}}')::text {_STALE}"))


def move(connection: Connection, ids: str, version: UUID) -> None:
    """Move these TIs to a version, with the kind of cursor that dagbump's client uses."""
    update = "UPDATE task_instance SET dag_version_id = %s, updated_at = clock_timestamp() WHERE id = ANY (%s::uuid[])"
    with connection.cursor() as cursor:
        cursor.execute(update, (version, ids), prepare=False)


def vacuum(connection: Connection) -> None:
    """Remove dead rows, so that every round finds the same tables."""
    connection.execute("VACUUM (INDEX_CLEANUP ON) task_instance, dag_run")


def split_dag(connection: Connection) -> None:
    """Give each run its own DAG, with a version and a serialized DAG. Needs a superuser."""
    for statement in _SPLIT_DAG:
        connection.execute(statement.encode())
