"""Reads and writes Airflow's own tables for the page, each time in a short transaction of an Airflow session.

`database.transaction` is only for dagbump's functions, because its search path does not contain Airflow's tables.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa
from airflow.jobs.job import Job, JobState
from airflow.models import Log
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState


def dag_ids() -> list[str]:
    """Return the ids of all DAGs."""
    return _column(sa.select(DagModel.dag_id))


def dag_ids_of_running_runs() -> list[str]:
    """Return the ids of the DAGs that have a running run."""
    return _column(sa.select(DagRun.dag_id).where(DagRun.state == DagRunState.RUNNING).distinct())


def dag_ids_of(dag_run_ids: Collection[int]) -> dict[int, str]:
    """Return the id of the DAG of each of these runs; a run that is no more is left out."""
    query = sa.select(DagRun.id, DagRun.dag_id).where(DagRun.id.in_(dag_run_ids))
    with create_session() as session:
        return {run: dag_id for run, dag_id in session.execute(query)}  # noqa: C416  (a Row is no tuple to mypy)


def scheduler_is_alive() -> bool:
    """Return whether a scheduler has sent a heartbeat lately, by the rule of Airflow's own health check."""
    running = (Job.job_type == "SchedulerJob", Job.state == JobState.RUNNING, Job.latest_heartbeat.is_not(None))
    newest = sa.select(Job).where(*running).order_by(Job.latest_heartbeat.desc()).limit(1)
    with create_session() as session:
        return any(job.is_alive() for job in session.scalars(newest))


def _column(query: sa.sql.Select[Any]) -> list[str]:
    with create_session() as session:
        return list(session.scalars(query))


def write_audit_log(event: str, user: str, extras: Mapping[str | None, Mapping[str, object]]) -> None:
    """Write an entry for each DAG into Airflow's audit log; like Airflow's own routes, before the action.

    The key None is for what belongs to no DAG any more.

    Airflow's action_logging is not used, because up to 3.0 it holds a connection until the response has been sent.
    """
    with create_session() as session:
        for dag_id, extra in extras.items():
            details = json.dumps({**extra, "method": "POST"})
            session.add(Log(event, owner=user, owner_display_name=user, extra=details, dag_id=dag_id))
