"""The same loop twice: with dagbump, and by loading every TI through the ORM.

The ORM's side re-creates the access pattern of Airflow 3.0 and 3.1 on models that SQLAlchemy reflects; it is not
Airflow. It is leaner than that: no type decorators, no relationship of the TI is loaded with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from statistics import median
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.automap import automap_base
from sqlalchemy.orm import Session, joinedload

from dagbump.client import bump
from dagbump.demo import fleet
from dagbump.demo.measuring import Cost, Meter
from dagbump.errors import DagbumpError

PASSES = 7

_FINISHED = ("success", "failed", "skipped", "upstream_failed", "removed")


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
    """What a scheduler loop does and costs; milliseconds are the median of `PASSES`."""

    cost: Cost
    loaded: int
    bumped: int


class Models:
    """Models of Airflow's tables, and the loops that use them."""

    def __init__(self, engine: sa.engine.Engine) -> None:
        """Take the engine of a database with these tables."""
        base: Any = automap_base()
        base.prepare(autoload_with=engine)
        self._dag = base.classes.dag
        self._version = base.classes.dag_version
        self._run = base.classes.dag_run
        self._backfill = base.classes.backfill_dag_run
        self._tables_with_versions = (base.classes.task_instance, base.classes.task_instance_history)

    def loop_with_dagbump(self, session: Session) -> Pass:
        """Do the loop as the scheduler does with dagbump: load the runs without their TIs, then one call."""
        runs = session.scalars(self._runs_to_examine()).all()
        result = bump(session, [run.id for run in runs], caller_verifies=True)
        return Pass(loaded=0, bumped=result.bumped, objects=(runs, result))

    def loop_with_orm(self, session: Session) -> Pass:
        """Load the runs with all their TIs in one query; then two queries per run, and a walk if need be."""
        with_tis = self._runs_to_examine().options(joinedload(self._run.task_instance_collection))
        runs = session.scalars(with_tis).unique().all()
        bumped = 0
        for run in runs:
            if run.bundle_version:
                continue
            newest_first = sa.select(self._version.id).order_by(self._version.version_number.desc())
            latest = session.scalars(newest_first.where(self._version.dag_id == run.dag_id).limit(1)).one()
            if session.scalar(self._uses(run, latest)) is None:
                bumped += _walk(run, latest)
        return Pass(loaded=sum(len(run.task_instance_collection) for run in runs), bumped=bumped, objects=runs)

    def _runs_to_examine(self) -> sa.Select[Any]:
        """Return the scheduler's query for running runs, in its order, each locked against other schedulers.

        It has no limit here: all runs of the fleet are examined in one loop, by either side.
        """
        run = self._run
        return (
            sa.select(run)
            .join(self._dag, self._dag.dag_id == run.dag_id)
            .outerjoin(self._backfill, self._backfill.dag_run_id == run.id)
            .where(run.state == "running", run.run_after <= _now(), ~self._dag.is_paused, ~self._dag.is_stale)
            .order_by(
                self._backfill.sort_ordinal.nulls_first(), run.last_scheduling_decision.nulls_first(), run.run_after
            )
            .with_for_update(of=run, skip_locked=True, key_share=True)
        )

    def _uses(self, run: Any, version: Any) -> sa.Executable:
        """Return the query for whether a TI of the run, or a past try, is on the version."""
        return sa.union(
            *(
                sa.select(table.dag_version_id).where(
                    table.dag_id == run.dag_id, table.run_id == run.run_id, table.dag_version_id == version
                )
                for table in self._tables_with_versions
            )
        )


def measure(engine: sa.engine.Engine, loop: SchedulerLoop, tis: int) -> tuple[Figures, Figures]:
    """Measure a loop, in a database that holds a fleet on version 1, of runs with so many TIs.

    Returns:
        What it costs where nothing has changed, and where a version has landed.

    Raises:
        DagbumpError: it left a stale TI behind.
    """
    clock, tracer = Meter(engine, tracing=False), Meter(engine, tracing=True)
    with engine.connect() as scheduler, engine.connect() as others:

        def nothing_changed(meter: Meter) -> tuple[Pass, Cost]:
            return _one_pass(scheduler, loop, meter)

        def version_landed(meter: Meter) -> tuple[Pass, Cost]:
            with others.begin():
                fleet.land_version(others, tis)
            done, cost = _one_pass(scheduler, loop, meter)
            with others.begin():
                census = fleet.take_census(others)
            if census.stale or done.bumped != census.unfinished:
                raise DagbumpError(f"the demo failed: after {done.bumped} TIs were bumped, there is {census}.")
            return done, cost

        _one_pass(scheduler, loop, clock)  # fills caches, makes plans
        figures = []
        for situation in (nothing_changed, version_landed):
            milliseconds = median(situation(clock)[1].milliseconds for _ in range(PASSES))
            done, cost = situation(tracer)
            figures.append(Figures(replace(cost, milliseconds=milliseconds), done.loaded, done.bumped))
    return figures[0], figures[1]


def _one_pass(connection: sa.engine.Connection, loop: SchedulerLoop, meter: Meter) -> tuple[Pass, Cost]:
    """Run one loop from BEGIN to COMMIT, in a session with the settings of Airflow's scheduler."""
    with Session(connection, autoflush=False, expire_on_commit=False) as session:

        def work() -> Pass:
            done = loop(session)
            session.commit()
            return done

        return meter(work)


def _walk(run: Any, version: Any) -> int:
    """Move the unfinished TIs to the version, one object at a time; the commit writes them."""
    unfinished = [ti for ti in run.task_instance_collection if ti.state not in _FINISHED]
    for ti in unfinished:
        ti.dag_version_id = version
        ti.updated_at = _now()
    return len(unfinished)


def _now() -> datetime:
    return datetime.now(timezone.utc)
