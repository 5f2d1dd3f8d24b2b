"""Fleets, made by real Airflow code; and new versions of their DAG.

Airflow parses, serializes and writes the DAG and creates the runs. Two things are left to SQL, for the sake of time:
the runs of large fleets are copies of the first one, and the states that TIs come to as a run goes on are set at once.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
from support.releases.worker import Worker

from benchmarks.plan import MOST_TIS_BY_AIRFLOW, Shape

DAG_ID = "fleet"

# Chains of ten tasks.
DAG_FILE = """\
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("{dag_id}", schedule=None):
    for number in range({tasks}):
        task = BashOperator(task_id=f"task_{{number:05}}", bash_command="true")
        if number % 10:
            before >> task
        before = task
"""

# As Airflow makes its ids, by time (RFC 9562, version 7): random ones would scatter every index on them.
_UUID7 = """
    encode(
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                FROM 1 FOR 6),
            52, 1), 53, 1),
        'hex')::uuid
"""

# Of ten TIs four have finished, three have no state yet, two are scheduled and one is running; all over the table.
_SET_STATES = """
    UPDATE task_instance
    SET state = (ARRAY['success', 'success', 'success', 'skipped', NULL, NULL, NULL, 'scheduled', 'scheduled',
                       'running'])[right(task_id, 1)::integer + 1],
        start_date = CASE WHEN right(task_id, 1) IN ('0', '1', '2', '3', '9') THEN now() END,
        end_date = CASE WHEN right(task_id, 1) IN ('0', '1', '2', '3') THEN now() END,
        scheduled_dttm = CASE WHEN right(task_id, 1) NOT IN ('4', '5', '6') THEN now() END,
        updated_at = now()
"""

# jsonb_populate_record takes all columns of a row but those that it is given anew, whatever columns the release has.
_COPY_RUN = """
    INSERT INTO dag_run
    SELECT copy.*
    FROM dag_run AS run
    CROSS JOIN generate_series(2, %(runs)s) AS number
    CROSS JOIN LATERAL jsonb_populate_record(run, jsonb_build_object(
        'id', nextval(pg_get_serial_sequence('dag_run', 'id')),
        'run_id', format('run_%%s', number)
    )) AS copy
    WHERE run.run_id = 'run_1'
"""
_COPY_TIS = f"""
    INSERT INTO task_instance
    SELECT copy.*
    FROM generate_series(2, %(runs)s) AS number
    CROSS JOIN task_instance AS ti
    CROSS JOIN LATERAL jsonb_populate_record(ti, jsonb_build_object(
        'id', {_UUID7},
        'run_id', format('run_%%s', number)
    )) AS copy
    WHERE ti.run_id = 'run_1'
    ORDER BY number, ti.task_id -- one run after the other, as Airflow would
"""

_LAND_VERSION = f"""
    INSERT INTO dag_version
    SELECT copy.*
    FROM (SELECT * FROM dag_version ORDER BY version_number DESC LIMIT 1) AS version
    CROSS JOIN LATERAL jsonb_populate_record(NULL::dag_version, to_jsonb(version) || jsonb_build_object(
        'id', {_UUID7},
        'version_number', version.version_number + 1,
        'created_at', clock_timestamp(),
        'last_updated', clock_timestamp()
    )) AS copy
    RETURNING id
"""
_LAND_SERIALIZED_DAG = f"""
    INSERT INTO serialized_dag
    SELECT copy.*
    FROM serialized_dag AS serialized
    CROSS JOIN LATERAL jsonb_populate_record(serialized, jsonb_build_object(
        'id', {_UUID7},
        'dag_version_id', %(version)s::text,
        'dag_hash', md5(%(version)s::text),
        'created_at', clock_timestamp(),
        'last_updated', clock_timestamp()
    )) AS copy
    WHERE serialized.dag_version_id = (SELECT id FROM dag_version ORDER BY version_number DESC OFFSET 1 LIMIT 1)
"""


def made_by_airflow(shape: Shape) -> bool:
    """Say whether Airflow creates every run, and not only the first."""
    return shape.total <= MOST_TIS_BY_AIRFLOW


def make(shape: Shape, worker: Worker, connection: psycopg.Connection[Any]) -> None:
    """Make the fleet in the worker's database, to which the connection leads too."""
    worker("write_dag", file=f"{DAG_ID}.py", source=DAG_FILE.format(dag_id=DAG_ID, tasks=shape.tis))
    by_airflow = shape.runs if made_by_airflow(shape) else 1
    for number in range(1, by_airflow + 1):
        worker("create_run", dag_id=DAG_ID, run_id=f"run_{number}")
    if by_airflow < shape.runs:
        connection.execute(_COPY_RUN, {"runs": shape.runs})
        connection.execute(_COPY_TIS, {"runs": shape.runs})
    connection.execute(_SET_STATES)
    connection.execute("VACUUM (FULL) task_instance")  # as if the states had always been so
    connection.execute("VACUUM (ANALYZE)")


def land_version(connection: psycopg.Connection[Any]) -> UUID:
    """Let a new version of the DAG be there: what Airflow wrote for the last one, under a new number."""
    with connection.transaction():
        row = connection.execute(_LAND_VERSION).fetchone()
        if row is None:
            raise LookupError("the DAG has no version yet")
        version: UUID = row[0]
        connection.execute(_LAND_SERIALIZED_DAG, {"version": version})
    return version
