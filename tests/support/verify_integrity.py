"""A stand-in for Airflow's verify_integrity, in SQL, for DAGs of plain tasks."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

from support.fleet import FILLERS, as_stored, columns_of
from support.ledger import LIVE

_FUNCTION = f"""
    CREATE FUNCTION public.verify_integrity(its_run bigint, version uuid) RETURNS void LANGUAGE sql AS $$
        INSERT INTO public.task_instance (id, task_id, dag_id, run_id, dag_version_id, {{columns}})
        SELECT gen_random_uuid(), task.id, run.dag_id, run.run_id, version, {{values}}
        FROM public.dag_run AS run
        JOIN public.serialized_dag AS serialized ON serialized.dag_version_id = version
        CROSS JOIN LATERAL jsonb_array_elements(serialized.data::jsonb #> '{{{{dag,tasks}}}}') AS listed
        CROSS JOIN LATERAL (SELECT listed #>> '{{{{__var,task_id}}}}' AS id) AS task
        WHERE run.id = its_run AND NOT EXISTS (
            SELECT FROM public.task_instance AS ti
            WHERE (ti.dag_id, ti.run_id, ti.task_id) = (run.dag_id, run.run_id, task.id) AND {LIVE}
        )
    $$
"""


def install(connection: psycopg.Connection[Any]) -> None:
    """Create `verify_integrity(run, version)`: it makes a TI for each task of the version that the run lacks."""
    _, fillers = as_stored("task_instance", FILLERS["task_instance"], columns_of(connection))
    connection.execute(
        sql.SQL(_FUNCTION).format(
            columns=sql.SQL(", ").join(map(sql.Identifier, fillers)),
            values=sql.SQL(", ").join(map(sql.Literal, fillers.values())),
        )
    )
