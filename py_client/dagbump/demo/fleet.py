"""The fleet, and the parts that Airflow's processes play around dagbump: DAG processor, API server, scheduler.

Functions here take a connection and leave the commit to the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

# The tables that `airflow db migrate` of Airflow 3.3.2 creates. `make airflow-tables` writes this file.
TABLES = Path(__file__).with_name("airflow_tables.sql")

DAG_IDS = ("ingest_orders", "train_ranking", "build_reports", "sync_crm")
NEW_TASK = "notify"

# The states of the TIs of a run. None means that the scheduler has not looked at the TI yet.
# The first three make a story.
_STATES: tuple[str | None, ...] = (
    *("running", "success", None, "success", None, "scheduled", "success", "skipped", None, "queued"),
    *("success", "failed", None, "up_for_retry", "skipped", None, "upstream_failed", "deferred", "success", None),
)

_MAKE_DAGS = """
    WITH bundle AS (INSERT INTO dag_bundle (name) VALUES ('dags-folder') RETURNING name)
    INSERT INTO dag (
        dag_id, is_paused, is_stale, bundle_name, timetable_type, partition_mapper_info,
        max_active_tasks, max_consecutive_failed_dag_runs, has_task_concurrency_limits
    )
    SELECT planned.dag_id, planned.is_paused, false, bundle.name, 'none', '{}', 16, 0, false
    FROM bundle CROSS JOIN (
        SELECT unnest(CAST(:dag_ids AS text[])), false UNION ALL SELECT 'paused_for_the_weekend', true
    ) AS planned (dag_id, is_paused)
"""

_LAND_VERSION = """
    WITH version AS (
        INSERT INTO dag_version (id, dag_id, version_number, created_at, last_updated)
        SELECT gen_random_uuid(), dag_id, coalesce(max(version_number), 0) + 1, now(), now()
        FROM dag LEFT JOIN dag_version USING (dag_id)
        GROUP BY dag_id
        RETURNING id, dag_id
    )
    INSERT INTO serialized_dag (id, dag_id, dag_version_id, dag_hash, data, created_at, last_updated)
    SELECT gen_random_uuid(), version.dag_id, version.id, '',
        jsonb_build_object('__version', 3, 'dag', jsonb_build_object('dag_id', version.dag_id, 'tasks', tasks)),
        now(), now()
    FROM version CROSS JOIN (
        SELECT jsonb_agg(jsonb_build_object('__type', 'operator', '__var', jsonb_build_object('task_id', task_id)))
        FROM unnest(CAST(:task_ids AS text[])) AS task_id
    ) AS dag (tasks)
"""

_MAKE_RUNS = """
    INSERT INTO dag_run (
        dag_id, run_id, bundle_version, created_dag_version_id, state, run_type, run_after, start_date, created_at
    )
    SELECT planned.dag_id, planned.run_id, planned.bundle_version, version.id, 'running', 'manual', due, due, due
    FROM (SELECT now() - interval '10 minutes') AS started (due)
    CROSS JOIN (
        SELECT (CAST(:dag_ids AS text[]))[1 + number % cardinality(CAST(:dag_ids AS text[]))],
            'run_' || number + 1, NULL
        FROM generate_series(0, :runs - 1) AS number
        UNION ALL SELECT (CAST(:dag_ids AS text[]))[1], 'pinned_to_a_bundle_version', '9c1f2e7'
        UNION ALL SELECT 'paused_for_the_weekend', 'run_1', NULL
    ) AS planned (dag_id, run_id, bundle_version)
    JOIN dag_version AS version ON version.dag_id = planned.dag_id
"""

# As Airflow fills them: what has started has a host, a process and times. The executor_config is a pickled {}.
_MAKE_MISSING_TIS = r"""
    INSERT INTO task_instance (
        id, dag_id, run_id, task_id, task_display_name, dag_version_id, state, max_tries, pool, pool_slots, queue,
        priority_weight, operator, custom_operator_name, executor_config, context_carrier, updated_at,
        try_number, hostname, unixname, pid, queued_by_job_id, scheduled_dttm, queued_dttm, start_date
    )
    SELECT gen_random_uuid(), run.dag_id, run.run_id, task_id, task_id, version.id, ti.state, 1, 'default_pool', 1,
        'default', 1, 'PythonOperator', '@task', '\x80047d942e', '{}', now(),
        coalesce(try.number, 0), try.hostname, 'airflow', try.pid, try.number, try.at, try.at, try.at
    FROM dag_run AS run
    CROSS JOIN LATERAL (
        SELECT id FROM dag_version WHERE dag_id = run.dag_id ORDER BY version_number DESC LIMIT 1
    ) AS version
    JOIN serialized_dag AS serialized ON serialized.dag_version_id = version.id
    CROSS JOIN jsonb_array_elements(serialized.data #> '{dag,tasks}') WITH ORDINALITY AS task (task, number)
    CROSS JOIN LATERAL (SELECT task #>> '{__var,task_id}') AS name (task_id)
    CROSS JOIN CAST(:states AS text[]) AS states
    CROSS JOIN LATERAL (SELECT states[1 + (task.number - 1) % cardinality(states)]) AS ti (state)
    LEFT JOIN (SELECT 1, 'worker-1.example.com', 4711, now()) AS try (number, hostname, pid, at)
        ON ti.state NOT IN ('scheduled', 'queued', 'skipped', 'upstream_failed')
    WHERE (run.id = ANY (:dag_run_ids) OR CAST(:dag_run_ids AS bigint[]) IS NULL)
        AND NOT EXISTS (
            SELECT FROM task_instance AS existing
            WHERE (existing.dag_id, existing.run_id, existing.task_id) = (run.dag_id, run.run_id, name.task_id)
        )
"""

_CLEAR_A_TASK = """
    UPDATE task_instance AS ti SET state = NULL, dag_version_id = version.id, updated_at = now()
    FROM dag_version AS version
    WHERE (ti.dag_id, ti.run_id, ti.task_id) = (:dag_id, 'run_1', 'task_002') AND version.dag_id = ti.dag_id
        AND version.version_number = (SELECT max(version_number) FROM dag_version WHERE dag_id = :dag_id)
"""

_TAKE_CENSUS = """
    SELECT count(*) FILTER (WHERE movable) AS unfinished,
        count(*) FILTER (WHERE movable AND ti.state IS NULL) AS stateless,
        count(*) FILTER (WHERE movable AND version.version_number IS DISTINCT FROM latest) AS stale,
        count(*) FILTER (WHERE NOT movable AND version.version_number IS DISTINCT FROM 1) AS moved_wrongly
    FROM task_instance AS ti
    JOIN dag_run AS run USING (dag_id, run_id)
    JOIN dag USING (dag_id)
    JOIN (SELECT dag_id, max(version_number) AS latest FROM dag_version GROUP BY dag_id) AS dags USING (dag_id)
    LEFT JOIN dag_version AS version ON version.id = ti.dag_version_id
    CROSS JOIN coalesce(ti.state IN ('success', 'failed', 'skipped', 'upstream_failed'), false) AS finished
    CROSS JOIN LATERAL (SELECT run.bundle_version IS NULL AND NOT dag.is_paused AND NOT finished) AS of_ti (movable)
"""


@dataclass(frozen=True)
class Census:
    """Counts of what is in the database, by a query that has nothing to do with dagbump's functions.

    Attributes:
        unfinished: unfinished TIs of the runs that the scheduler examines.
        stateless: those of them whose state is NULL.
        stale: those of them that are not on the latest version of their DAG.
        moved_wrongly: finished TIs, and TIs of the pinned run and the paused DAG, that are not on version 1.
    """

    unfinished: int
    stateless: int
    stale: int
    moved_wrongly: int


def build(connection: sa.engine.Connection, runs: int, tis: int) -> None:
    """Make Airflow's tables, and in them running runs of several DAGs, each with so many TIs, all on version 1.

    Two more runs are for dagbump to leave alone: one is pinned to a bundle version, the DAG of the other is paused.
    """
    connection.exec_driver_sql(TABLES.read_text("utf-8"), execution_options={"no_parameters": True})
    dag_ids = list(DAG_IDS[:runs])
    connection.execute(sa.text(_MAKE_DAGS), {"dag_ids": dag_ids})
    land_version(connection, tis)
    connection.execute(sa.text(_MAKE_RUNS), {"dag_ids": dag_ids, "runs": runs})
    connection.execute(sa.text(_MAKE_MISSING_TIS), {"dag_run_ids": None, "states": list(_STATES)})


def land_version(connection: sa.engine.Connection, tasks: int, *new_tasks: str) -> None:
    """Play the DAG processor: every DAG gets a new version, with so many tasks and the new ones."""
    task_ids = [*(f"task_{number:03d}" for number in range(1, tasks + 1)), *new_tasks]
    connection.execute(sa.text(_LAND_VERSION), {"task_ids": task_ids})


def clear_a_task_on_the_latest_version(connection: sa.engine.Connection) -> None:
    """Play the API server of Airflow up to 3.3: a finished TI of one run is to run again, on the latest version."""
    connection.execute(sa.text(_CLEAR_A_TASK), {"dag_id": DAG_IDS[0]})


def verify_integrity(connection: sa.engine.Connection, dag_run_ids: Sequence[int]) -> int:
    """Play the scheduler's verify_integrity: create the TIs of tasks that have none.

    Returns:
        How many it created.
    """
    missing = {"dag_run_ids": list(dag_run_ids), "states": [None]}
    return connection.execute(sa.text(_MAKE_MISSING_TIS), missing).rowcount


def take_census(connection: sa.engine.Connection) -> Census:
    """Count."""
    return Census(**connection.execute(sa.text(_TAKE_CENSUS)).one()._asdict())
