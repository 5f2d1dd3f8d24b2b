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
