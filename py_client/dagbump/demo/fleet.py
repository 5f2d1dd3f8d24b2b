"""The fleet, and the parts that Airflow's processes play around dagbump: DAG processor, API server, scheduler.

Functions here take a connection and leave the commit to the caller.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from dagbump.demo.tables import (
    FINISHED_STATES,
    Dag,
    DagRun,
    DagVersion,
    SerializedDag,
    TaskInstance,
    TaskInstanceHistory,
    now,
)
from dagbump.results import RunBump

DAG_IDS = ("ingest_orders", "train_ranking", "build_reports", "sync_crm")
PAUSED_DAG_ID = "paused_for_the_weekend"
PINNED_RUN_ID = "pinned_to_a_bundle_version"

# What the TIs of a run are in the midst of; None: not looked at by the scheduler yet. The first is running, so that
# the smallest fleet, too, has a TI for the API server to hold.
STATES: tuple[str | None, ...] = (
    *("running", "success", None, "success", None, "scheduled", "success", "skipped", None, "queued"),
    *("success", "failed", None, "up_for_retry", "removed", None, "upstream_failed", "deferred", "success", None),
)


@dataclass(frozen=True)
class Census:
    """Counts of what is in the database, by queries that have nothing to do with dagbump's functions.

    Attributes:
        unfinished: unfinished TIs of the runs that the scheduler examines.
        stateless: those of them whose state is NULL.
        stale: those of them that are not on the latest version of their DAG.
        finished: finished TIs of those runs.
        finished_on_first: those of them that are on version 1.
        left_alone: unfinished TIs of the pinned run and of the paused DAG's.
        left_alone_on_first: those of them that are on version 1.
    """

    unfinished: int
    stateless: int
    stale: int
    finished: int
    finished_on_first: int
    left_alone: int
    left_alone_on_first: int


def build(connection: sa.engine.Connection, runs: int, tis: int) -> None:
    """Fill the tables: running runs of several DAGs, each with so many TIs, everything on version 1.

    Two more runs are for dagbump to leave alone: one is pinned to a bundle version, the DAG of the other is paused.
    """
    task_ids = [f"task_{number:03d}" for number in range(1, tis + 1)]
    used = DAG_IDS[:runs]
    connection.execute(sa.insert(Dag), [{"dag_id": dag_id, "is_paused": False} for dag_id in used])
    connection.execute(sa.insert(Dag), {"dag_id": PAUSED_DAG_ID, "is_paused": True})
    versions = {dag_id: _add_version(connection, dag_id, 1, task_ids) for dag_id in (*used, PAUSED_DAG_ID)}

    for number in range(runs):
        dag_id = used[number % len(used)]
        _add_run(connection, dag_id, f"run_{number + 1}", versions[dag_id], task_ids)
    _add_run(connection, used[0], PINNED_RUN_ID, versions[used[0]], task_ids, bundle_version="9c1f2e7")
    _add_run(connection, PAUSED_DAG_ID, "run_1", versions[PAUSED_DAG_ID], task_ids)


def land_version(connection: sa.engine.Connection, new_task: str | None = None) -> None:
    """Play the DAG processor: every DAG gets a new version, with one more task or with the same ones."""
    for dag_id in connection.scalars(sa.select(Dag.dag_id)).all():
        number, data = connection.execute(
            sa.select(DagVersion.version_number, SerializedDag.data)
            .join(SerializedDag, SerializedDag.dag_version_id == DagVersion.id)
            .where(DagVersion.id == _latest_version_id(dag_id))
        ).one()
        added = [] if new_task is None else [new_task]
        _add_version(connection, dag_id, number + 1, [*_task_ids(data), *added])


def hold_running_tis(connection: sa.engine.Connection, in_runs: int) -> int:
    """Play the API server: record heartbeats of the running TIs of some runs.

    Returns:
        How many TIs this transaction holds.
    """
    runs = sa.select(DagRun.dag_id, DagRun.run_id).where(_examined()).order_by(DagRun.id).limit(in_runs)
    heartbeat = (
        sa.update(TaskInstance)
        .where(TaskInstance.state == "running", sa.tuple_(TaskInstance.dag_id, TaskInstance.run_id).in_(runs))
        .values(last_heartbeat_at=now())
    )
    return connection.execute(heartbeat).rowcount


def verify_integrity(connection: sa.engine.Connection, runs: Iterable[RunBump]) -> int:
    """Play the scheduler's verify_integrity: create the TIs of tasks that have none.

    Returns:
        How many it created.
    """
    created = [
        _ti(run.dag_id, run.run_id, task_id, run.dag_version_id, None)
        for run in runs
        for task_id in _tasks_without_ti(connection, run)
    ]
    if created:
        connection.execute(sa.insert(TaskInstance), created)
    return len(created)


def take_census(connection: sa.engine.Connection) -> Census:
    """Count."""
    examined = _examined()
    finished = TaskInstance.state.is_not(None) & TaskInstance.state.in_(FINISHED_STATES)
    on_first = DagVersion.version_number == 1
    latest = _latest_version_id(TaskInstance.dag_id)

    def count(*criteria: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.count().filter(*criteria)

    row = connection.execute(
        sa.select(
            count(examined, ~finished).label("unfinished"),
            count(examined, TaskInstance.state.is_(None)).label("stateless"),
            count(examined, ~finished, TaskInstance.dag_version_id.is_distinct_from(latest)).label("stale"),
            count(examined, finished).label("finished"),
            count(examined, finished, on_first).label("finished_on_first"),
            count(~examined, ~finished).label("left_alone"),
            count(~examined, ~finished, on_first).label("left_alone_on_first"),
        )
        .select_from(TaskInstance)
        .join(DagRun, (DagRun.dag_id == TaskInstance.dag_id) & (DagRun.run_id == TaskInstance.run_id))
        .outerjoin(DagVersion, DagVersion.id == TaskInstance.dag_version_id)
    ).one()
    return Census(**row._asdict())


def _examined() -> sa.ColumnElement[bool]:
    return DagRun.bundle_version.is_(None) & (DagRun.dag_id != PAUSED_DAG_ID)


def _latest_version_id(dag_id: Any) -> sa.ScalarSelect[UUID]:
    """Return the subquery for the latest version of a DAG, which may be a column of the query around it."""
    version = aliased(DagVersion)  # the query around it may have a DagVersion of its own
    return (
        sa.select(version.id)
        .where(version.dag_id == dag_id)
        .order_by(version.version_number.desc())
        .limit(1)
        .correlate_except(version)
        .scalar_subquery()
    )


def _add_version(connection: sa.engine.Connection, dag_id: str, number: int, task_ids: Iterable[str]) -> UUID:
    version: UUID = connection.execute(
        sa.insert(DagVersion).values(dag_id=dag_id, version_number=number).returning(DagVersion.id)
    ).scalar_one()
    tasks = [{"__type": "operator", "__var": {"task_id": task_id}} for task_id in task_ids]
    data = {"__version": 3, "dag": {"dag_id": dag_id, "tasks": tasks}}
    connection.execute(sa.insert(SerializedDag).values(dag_id=dag_id, dag_version_id=version, data=data))
    return version


def _add_run(
    connection: sa.engine.Connection,
    dag_id: str,
    run_id: str,
    version: UUID,
    task_ids: Iterable[str],
    bundle_version: str | None = None,
) -> None:
    started = now() - timedelta(minutes=10)
    connection.execute(
        sa.insert(DagRun).values(
            dag_id=dag_id,
            run_id=run_id,
            state="running",
            run_type="manual",
            run_after=started,
            start_date=started,
            bundle_version=bundle_version,
            created_dag_version_id=version,
        )
    )
    tis = [
        _ti(dag_id, run_id, task_id, version, STATES[number % len(STATES)]) for number, task_id in enumerate(task_ids)
    ]
    connection.execute(sa.insert(TaskInstance), tis)
    past_tries = [{**ti, "state": "failed", "try_number": 1} for ti in tis if ti["state"] == "up_for_retry"]
    if past_tries:
        connection.execute(sa.insert(TaskInstanceHistory), past_tries)


def _ti(dag_id: str, run_id: str, task_id: str, version: UUID, state: str | None) -> dict[str, Any]:
    """Return a row for task_instance, filled as Airflow would: what has started has a host, a process and times."""
    started = state not in {None, "scheduled", "queued", "skipped", "upstream_failed", "removed"}
    return {
        "dag_id": dag_id,
        "run_id": run_id,
        "task_id": task_id,
        "task_display_name": task_id,
        "dag_version_id": version,
        "state": state,
        "try_number": 1 if started else 0,
        "max_tries": 1,
        "queue": "default",
        "priority_weight": 1,
        "operator": "PythonOperator",
        "custom_operator_name": "@task",
        "executor_config": {},
        "context_carrier": {},
        "hostname": "worker-1.example.com" if started else None,
        "unixname": "airflow" if started else None,
        "pid": 4711 if started else None,
        "scheduled_dttm": now() if started else None,
        "queued_dttm": now() if started else None,
        "queued_by_job_id": 1 if started else None,
        "start_date": now() if started else None,
    }


def _tasks_without_ti(connection: sa.engine.Connection, run: RunBump) -> list[str]:
    data = connection.scalar(sa.select(SerializedDag.data).where(SerializedDag.dag_version_id == run.dag_version_id))
    existing = connection.scalars(
        sa.select(TaskInstance.task_id).where(TaskInstance.dag_id == run.dag_id, TaskInstance.run_id == run.run_id)
    )
    return sorted(set(_task_ids(data)) - set(existing))


def _task_ids(data: Any) -> list[str]:
    return [task["__var"]["task_id"] for task in data["dag"]["tasks"]]
