"""Fleets, made by real Airflow code as far as time allows."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
from support.fleet import Fleet
from support.releases.worker import Worker

from benchmarks.plan import Shape

DAG_ID = "fleet"
# Up to here Airflow itself creates every run of a fleet; above, one run, which SQL copies.
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
# To be added: a task that is mapped, over ten TIs.
MAPPED = """\
    BashOperator.partial(task_id="mapped_9").expand(bash_command=["true"] * 10)
"""

# Of each chain of ten TIs four have finished, one is running, and five wait for it: a scheduler has nothing to do.
_SET_STATES = """
    UPDATE task_instance
    SET state = CASE WHEN right(task_id, 1) < '4' THEN 'success' WHEN right(task_id, 1) = '4' THEN 'running' END,
        start_date = CASE WHEN right(task_id, 1) <= '4' THEN now() END,
        end_date = CASE WHEN right(task_id, 1) < '4' THEN now() END,
        scheduled_dttm = CASE WHEN right(task_id, 1) <= '4' THEN now() END,
        updated_at = now()
"""

# Foreign keys are not enforced meanwhile; what refers to a DAG by its dag_id follows below.
_SPLIT_DAG = (
    "SET session_replication_role = replica",
    """
    INSERT INTO dag
    SELECT copy.*
    FROM dag_run AS run
    JOIN dag ON dag.dag_id = run.dag_id
    CROSS JOIN LATERAL jsonb_populate_record(dag, jsonb_build_object('dag_id', run.run_id)) AS copy
    """,
    """
    INSERT INTO dag_version
    SELECT copy.*
    FROM dag_run AS run
    CROSS JOIN (SELECT * FROM dag_version ORDER BY version_number DESC LIMIT 1) AS version
    CROSS JOIN LATERAL jsonb_populate_record(
        version::dag_version, jsonb_build_object('id', md5(run.run_id)::uuid, 'dag_id', run.run_id)
    ) AS copy
    """,
    """
    INSERT INTO serialized_dag
    SELECT copy.*
    FROM dag_run AS run
    CROSS JOIN (SELECT * FROM serialized_dag LIMIT 1) AS serialized
    CROSS JOIN LATERAL jsonb_populate_record(
        serialized::serialized_dag,
        jsonb_build_object(
            'id', gen_random_uuid(), 'dag_version_id', md5(run.run_id)::uuid,
            'dag_id', run.run_id, 'dag_hash', run.run_id
        )
    ) AS copy
    """,
    "UPDATE task_instance SET dag_id = run_id, dag_version_id = md5(run_id)::uuid",
    "UPDATE dag_run SET dag_id = run_id",
    "RESET session_replication_role",
    "VACUUM (ANALYZE)",
)


def write_dag(tasks: int, worker: Worker, more: str = "") -> None:
    """Let Airflow write the DAG with so many tasks, and with what is to be added, into the worker's database."""
    worker("write_dag", file=f"{DAG_ID}.py", source=_DAG_FILE.format(dag_id=DAG_ID, tasks=tasks) + more)


def make(shape: Shape, worker: Worker, connection: psycopg.Connection[Any], more: str = "") -> None:
    """Make the fleet in the worker's database, to which the connection leads too."""
    write_dag(shape.tis, worker, more)
    by_airflow = shape.runs if shape.runs * shape.tis <= _MOST_TIS_BY_AIRFLOW else 1
    for number in range(by_airflow):
        run = worker("create_run", dag_id=DAG_ID, run_id=f"run_{number}")
    if by_airflow < shape.runs:
        Fleet(connection).copy_run(run, shape.runs - by_airflow)
    connection.execute(_SET_STATES)
    connection.execute("VACUUM (FULL) task_instance")  # as if the states had always been so
    connection.execute("VACUUM (ANALYZE)")


def change_version(connection: psycopg.Connection[Any]) -> UUID:
    """Let a new version of the DAG be there: what Airflow wrote for the last one, under a new number."""
    return Fleet(connection).copy_latest_version(DAG_ID)


def split_dag(connection: psycopg.Connection[Any]) -> None:
    """Give each run a DAG of its own, with a version and a serialized DAG; as a superuser."""
    for statement in _SPLIT_DAG:
        connection.execute(statement)
