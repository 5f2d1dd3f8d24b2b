"""The same loop twice: with dagbump, and by loading every TI through the ORM.

The ORM's side re-creates the access pattern of Airflow 3.0 and 3.1 on the models of this demo; it is not Airflow.
It is leaner than that: no type decorators, no relationship of the TI is loaded with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session, joinedload

from dagbump.client import bump
from dagbump.demo import fleet
from dagbump.demo.measuring import Inspection, Measure, Use, stopwatch
from dagbump.demo.tables import (
    FINISHED_STATES,
    BackfillDagRun,
    Dag,
    DagRun,
    DagVersion,
    TaskInstance,
    TaskInstanceHistory,
    now,
)
from dagbump.errors import DagbumpError

CostT = TypeVar("CostT")

PASSES = 7


@dataclass(frozen=True)
class Pass:
    """What one scheduler loop did.

    Attributes:
        loaded: TIs loaded into Python.
        bumped: TIs moved to the latest version.
        objects: what the loop has at hand at its end, so that it counts as kept.
    """

    loaded: int
    bumped: int
    objects: object


SchedulerLoop = Callable[[Session], Pass]


@dataclass(frozen=True)
class Figures:
    """What a scheduler loop costs: milliseconds, as the median of `PASSES`, and the rest."""

    milliseconds: float
    use: Use
    loaded: int
    bumped: int


@dataclass(frozen=True)
class Side:
    """One side of the comparison."""

    nothing_changed: Figures
    version_landed: Figures


def with_dagbump(session: Session) -> Pass:
    """Do the loop as the scheduler does with dagbump: load the runs without their TIs, then one call."""
    runs = session.scalars(_runs_to_examine()).all()
    result = bump(session, [run.id for run in runs], caller_verifies=True)
    return Pass(loaded=0, bumped=result.bumped, objects=(runs, result))


def with_orm(session: Session) -> Pass:
    """Do the loop on loaded TIs: one query for the runs and all their TIs, then two per run, then a walk if need be."""
    runs = session.scalars(_runs_to_examine().options(joinedload(DagRun.task_instances))).unique().all()
    bumped = 0
    for run in runs:
        if run.bundle_version:
            continue
        latest = session.scalars(
            sa.select(DagVersion)
            .where(DagVersion.dag_id == run.dag_id)
            .order_by(DagVersion.version_number.desc())
            .limit(1)
        ).one()
        if session.scalar(_is_in_use(run, latest.id)) is None:
            bumped += _walk(run, latest.id)
    return Pass(loaded=sum(len(run.task_instances) for run in runs), bumped=bumped, objects=runs)


def measure(engine: sa.engine.Engine, loop: SchedulerLoop) -> Side:
    """Measure a side, in a database that holds a fleet on version 1.

    Raises:
        DagbumpError: it left a stale TI behind.
    """
    inspection = Inspection(engine)
    with engine.connect() as scheduler, engine.connect() as others:
        _one_pass(scheduler, loop, stopwatch)  # fills caches, makes plans
        steady = [_one_pass(scheduler, loop, stopwatch)[1] for _ in range(PASSES)]
        done, use = _one_pass(scheduler, loop, inspection)
        nothing_changed = Figures(median(steady), use, done.loaded, done.bumped)

        landing = [_landing_pass(scheduler, others, loop, stopwatch)[1] for _ in range(PASSES)]
        done, use = _landing_pass(scheduler, others, loop, inspection)
        version_landed = Figures(median(landing), use, done.loaded, done.bumped)
    return Side(nothing_changed, version_landed)


def _one_pass(connection: sa.engine.Connection, loop: SchedulerLoop, measured: Measure[CostT]) -> tuple[Pass, CostT]:
    """Run one loop from BEGIN to COMMIT, in a session with the settings of Airflow's scheduler."""
    with Session(connection, autoflush=False, expire_on_commit=False) as session:

        def work() -> Pass:
            done = loop(session)
            session.commit()
            return done

        return measured(work)


def _landing_pass(
    scheduler: sa.engine.Connection, others: sa.engine.Connection, loop: SchedulerLoop, measured: Measure[CostT]
) -> tuple[Pass, CostT]:
    """Run one loop after a version has landed for every DAG; that is not measured."""
    with others.begin():
        fleet.land_version(others)
    done, cost = _one_pass(scheduler, loop, measured)
    with others.begin():
        census = fleet.take_census(others)
    if census.stale or done.bumped != census.unfinished:
        raise DagbumpError(f"the demo failed: after {done.bumped} TIs were bumped, there is {census}.")
    return done, cost


def _runs_to_examine() -> sa.Select[DagRun]:
    """Return the scheduler's query for running runs, in its order, each locked against other schedulers.

    It has no limit here: all runs of the fleet are examined in one loop, by either side.
    """
    return (
        sa.select(DagRun)
        .join(Dag, Dag.dag_id == DagRun.dag_id)
        .outerjoin(BackfillDagRun, BackfillDagRun.dag_run_id == DagRun.id)
        .where(DagRun.state == "running", DagRun.run_after <= now(), ~Dag.is_paused, ~Dag.is_stale)
        .order_by(
            BackfillDagRun.sort_ordinal.nulls_first(), DagRun.last_scheduling_decision.nulls_first(), DagRun.run_after
        )
        .with_for_update(of=DagRun, skip_locked=True, key_share=True)
    )


def _is_in_use(run: DagRun, version: UUID) -> sa.Executable:
    """Return the query for whether a TI of the run, or a past try, is on the version."""
    of_table = [
        sa.select(table.dag_version_id).where(
            table.dag_id == run.dag_id, table.run_id == run.run_id, table.dag_version_id == version
        )
        for table in (TaskInstance, TaskInstanceHistory)
    ]
    return sa.union(*of_table)


def _walk(run: DagRun, version: UUID) -> int:
    """Move the unfinished TIs to the version, one object at a time; the commit writes them."""
    unfinished = [ti for ti in run.task_instances if ti.state not in FINISHED_STATES]
    for ti in unfinished:
        ti.dag_version_id = version
    return len(unfinished)
