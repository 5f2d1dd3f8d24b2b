"""A scheduler's loop in three ways, as far as it is about DAG versions: two of Airflow's, and dagbump's.

Airflow's ways are its queries, on models that SQLAlchemy reflects; not Airflow itself. They are leaner than that: no
type decorators, and no relationship is loaded but the one that is the point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.automap import automap_base
from sqlalchemy.orm import Session, joinedload

from dagbump.client import bump

# State.unfinished of Airflow 3.3. An IN of SQL never matches its first member, a walk in Python does.
_UNFINISHED = (
    *(None, "scheduled", "queued", "running", "restarting"),
    *("up_for_retry", "up_for_reschedule", "deferred", "awaiting_input"),
)


@dataclass(frozen=True)
class Pass:
    """What one loop did.

    Attributes:
        loaded: TIs loaded into Python.
        moved: TIs moved to the latest version.
        to_verify: runs for which verify_integrity is due.
        at_hand: what the loop still holds at its end, so that it counts as kept.
    """

    loaded: int
    moved: int
    to_verify: list[int]
    at_hand: object


SchedulerLoop = Callable[[Session], Pass]


class Loops:
    """The three ways, on the tables of one database."""

    def __init__(self, engine: sa.engine.Engine) -> None:
        """Reflect the tables."""
        base: Any = automap_base()
        base.prepare(autoload_with=engine)
        base.registry.configure()
        self._dag = base.classes.dag
        self._version = base.classes.dag_version
        self._run = base.classes.dag_run
        self._backfill = base.classes.backfill_dag_run
        self._ti = base.classes.task_instance
        self._past_try = base.classes.task_instance_history

    def loading_every_ti(self, session: Session) -> Pass:
        """Do it as Airflow 3.0 and 3.1: load the runs with all their TIs, and walk those of each changed run."""
        with_tis = self._runs_to_examine().options(joinedload(self._run.task_instance_collection))
        runs = session.scalars(with_tis).unique().all()
        changed = list(self._changed(session, runs))
        moved = sum(_walk(run, latest) for run, latest in changed)
        loaded = sum(len(run.task_instance_collection) for run in runs)
        return Pass(loaded, moved, [run.id for run, _ in changed], runs)

    def updating_in_bulk(self, session: Session) -> Pass:
        """Do it as Airflow 3.2 and 3.3: one UPDATE for each changed run."""
        runs = session.scalars(self._runs_to_examine()).all()
        changed = list(self._changed(session, runs))
        moved = 0
        for run, latest in changed:
            update = (
                sa.update(self._ti)
                .where(self._ti.dag_id == run.dag_id, self._ti.run_id == run.run_id, self._ti.state.in_(_UNFINISHED))
                .values(dag_version_id=latest, updated_at=_now())
            )
            result: Any = session.execute(update, execution_options={"synchronize_session": False})
            moved += result.rowcount
        return Pass(0, moved, [run.id for run, _ in changed], runs)

    def calling_dagbump(self, session: Session) -> Pass:
        """Do a loop with dagbump: load the runs without their TIs, then call bump once."""
        runs = session.scalars(self._runs_to_examine()).all()
        result = bump(session, [run.id for run in runs], caller_verifies=True)
        return Pass(0, result.bumped, [run.dag_run_id for run in result.needs_verify], (runs, result))

    def _runs_to_examine(self) -> sa.Select[Any]:
        """Return the scheduler's query for running runs, in its order, but without its limit."""
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

    def _changed(self, session: Session, runs: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Ask Airflow's two queries about each run that is not pinned; return the unverified ones, with the latest."""
        for run in runs:
            if run.bundle_version:
                continue
            newest_first = sa.select(self._version.id).order_by(self._version.version_number.desc())
            latest = session.scalars(newest_first.where(self._version.dag_id == run.dag_id).limit(1)).one()
            if session.scalar(self._uses(run, latest)) is None:
                yield run, latest

    def _uses(self, run: Any, version: Any) -> sa.Executable:
        """Return the query for whether a TI of the run, or a past try, is on the version."""
        return sa.union(
            *(
                sa.select(table.dag_version_id).where(
                    table.dag_id == run.dag_id, table.run_id == run.run_id, table.dag_version_id == version
                )
                for table in (self._ti, self._past_try)
            )
        )


def run_once(connection: sa.engine.Connection, loop: SchedulerLoop) -> Pass:
    """Run one loop from BEGIN to COMMIT, in a session with the settings of Airflow's scheduler."""
    with Session(connection, autoflush=False, expire_on_commit=False) as session:
        done = loop(session)
        session.commit()
        return done


def _walk(run: Any, version: Any) -> int:
    """Move the unfinished TIs to the version, one object at a time; the commit writes them."""
    unfinished = [ti for ti in run.task_instance_collection if ti.state in _UNFINISHED]
    for ti in unfinished:
        ti.dag_version_id = version
        ti.updated_at = _now()
    return len(unfinished)


def _now() -> datetime:
    return datetime.now(timezone.utc)
