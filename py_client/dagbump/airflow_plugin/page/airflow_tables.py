"""What the page asks of Airflow's own tables, and writes there: each in a short transaction of Airflow's own session.

`database.transaction` is for dagbump's functions: in it, the search path leads to no table of Airflow's.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from airflow.models import Log
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState


def dag_ids() -> list[str]:
    """Return every DAG."""
    return _column(sa.select(DagModel.dag_id))


def dag_ids_of_running_runs() -> list[str]:
    """Return the DAGs that have a running run."""
    return _column(sa.select(DagRun.dag_id).where(DagRun.state == DagRunState.RUNNING).distinct())


def dag_ids_of(dag_run_ids: Collection[int]) -> list[str]:
    """Return the DAGs of these runs."""
    return _column(sa.select(DagRun.dag_id).where(DagRun.id.in_(dag_run_ids)).distinct())


def _column(query: sa.sql.Select[Any]) -> list[str]:
    with create_session() as session:
        return list(session.scalars(query))


def write_audit_log(event: str, user: str, **extra: object) -> None:
    """Write Airflow's audit log as its own routes do, before they do anything.

    Not by Airflow's action_logging: up to 3.0 that holds a connection until the answer has been sent.
    """
    with create_session() as session:
        session.add(Log(event, owner=user, owner_display_name=user, extra=json.dumps(extra | {"method": "POST"})))
