"""What dagbump does in a scheduler's loop: one bump for all its runs, and verify_integrity for those that need it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from time import monotonic
from types import ModuleType
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, aliased

from dagbump import client
from dagbump.airflow_plugin import reporting
from dagbump.airflow_plugin.compatibility import DagRun, DagVersion, SchedulerJobRunner, dag_of, stats_of
from dagbump.airflow_plugin.loop import HeldRuns, Loop, Memory
from dagbump.airflow_plugin.reporting import Reporter
from dagbump.held import describe
from dagbump.results import BumpResult


class Scheduling:
    """What the replaced functions share: the loop under way, and the work that is done in it.

    Attributes:
        loop: the one under way, if any. Schedulers run one loop at a time, in one thread.
        memory: what is kept from one loop to the next.
    """

    def __init__(self, scheduler: ModuleType, warn_held_after: float) -> None:
        """Prepare.

        Args:
            scheduler: Airflow's module ``airflow.jobs.scheduler_job_runner``.
            warn_held_after: for so many seconds others may hold something of a run before a warning; 0: for ever.
        """
        self._held = HeldRuns(warn_held_after)
        self._dag = scheduler.DagModel
        self._dag_run = scheduler.DagRun
        self._dag_version = scheduler.DagVersion
        self._reporter = Reporter(stats_of(scheduler))
        self.loop: Loop | None = None
        self.memory = Memory()

    def on_rollback(self, session: Session, _: object) -> None:
        """Take notice that a session has been rolled back."""
        if self.loop is not None and session is self.loop.session:
            self.loop.lost = True

    @contextmanager
    def looping(self, runner: SchedulerJobRunner, runs: list[DagRun], session: Session) -> Iterator[None]:
        """Begin a loop with one bump; at its end, which is after the commit, remember what was left undone."""
        self.loop = Loop(session)
        try:
            self._bump(runner, runs, self.loop)
            yield
            if not self.loop.lost:
                self.memory.take(self.loop)
        finally:
            self.loop = None

    def verify(self, runner: SchedulerJobRunner, loop: Loop, run: DagRun) -> bool:
        """Do what is left of _verify_integrity_if_dag_changed; False lets Airflow leave the run to a later loop."""
        if run.id in loop.held:
            reporting.waits(run.dag_id, run.run_id)
            return False
        if run.id not in loop.due:
            return True
        run.dag = dag_of(runner, run, loop.session)
        if not run.dag:
            return False
        loop.session.expire(run, ["task_instances"])
        run.verify_integrity(dag_version_id=loop.versions[run.dag_id].id, session=loop.session)
        loop.verified.add(run.id)
        return True

    def _bump(self, runner: SchedulerJobRunner, runs: list[DagRun], loop: Loop) -> None:
        """Bump the runs of a loop; on an error it is lost, and Airflow's own code does it."""
        if not runs:
            return
        try:
            # Not session.begin_nested(), which prohibit_commit would take for a commit.
            with self._reporter.timer(), loop.session.connection().begin_nested():
                self._forget_ended(loop.session)
                result = self._ask(runner, runs, loop)
        except Exception as error:
            loop.lost = True  # whatever it has learnt so far
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise  # nothing can run on it; Airflow tries again on another
            self._reporter.failed(error)
        else:
            self._reporter.bumped(result)
            self._warn_of_holders(result, loop)

    def _warn_of_holders(self, result: BumpResult, loop: Loop) -> None:
        """Say once who holds a run that has been held for long; not to find out is no error of the loop."""
        held = {row.dag_run_id: row for row in result.runs if row.locked}
        late = self._held.take(loop.judged, held, monotonic())
        if not late:
            return
        try:
            with loop.session.connection().begin_nested():
                holders = client.holders(loop.session.connection(), late)
                now = loop.session.connection().scalar(sa.func.clock_timestamp())
        except Exception as error:
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise
            reporting.cannot_name_holders(error)
            return
        oldest = {holder.dag_run_id: holder for holder in reversed(holders)}
        for run in filter(oldest.__contains__, late):
            row = held[run]
            reporting.held_for_long(row.dag_id, row.run_id, self._held.warn_after, describe(oldest[run], now))

    def _ask(self, runner: SchedulerJobRunner, runs: list[DagRun], loop: Loop) -> BumpResult:
        """Bump the runs of a loop, and learn from the answer, and from a look before and after, what is to be done."""
        before = self._latest_versions(runs, loop.session, self._dag_version)
        loop.versions = {version.dag_id: version for version in before.values()}
        candidates = [run for run in runs if run.id in before and _will_be_verified(runner, run, loop.session)]
        result = client.bump(loop.session, dag_run_ids=[run.id for run in candidates], caller_verifies=True)
        after = self._latest_versions(candidates, loop.session, self._dag_version.id)
        # The bump is silent about a run where nothing is due, but also about one that it has not examined, or has left
        # to another call, since a newer version landed. Nothing is due where the run was to be examined both before and
        # after, for the same version: unless that has changed, and changed back, during the bump.
        unchanged = {run: before[run] for run, version in after.items() if before[run].id == version}
        self._take(result, candidates, unchanged, loop)
        return result

    def _take(self, result: BumpResult, candidates: list[DagRun], unchanged: dict[int, DagVersion], loop: Loop) -> None:
        by_id = {run.id: run for run in candidates}
        loop.versions = {version.dag_id: version for version in unchanged.values()}
        loop.judged = {*unchanged, *(row.dag_run_id for row in result.runs)}
        for row in result.runs:
            if not row.bumped and not row.needs_verify and not _is_on(by_id[row.dag_run_id], row.dag_version_id, loop):
                loop.held.add(row.dag_run_id)
                continue
            # The DAG has to be of the same version as its TIs, also if a newer one has landed.
            loop.versions[row.dag_id] = loop.session.get(self._dag_version, row.dag_version_id)
            if row.needs_verify and row.locked and not row.bumped:
                loop.unmoved[row.dag_run_id] = row.dag_version_id
        loop.due = self.memory.due(loop, (row.dag_run_id for row in result.needs_verify))

    def _latest_versions(self, runs: list[DagRun], session: Session, what: Any) -> dict[int, Any]:
        """Read the latest version, or a column of it, for each run that dagbump.bump would examine now; by run id."""
        run, dag, version, other = self._dag_run, self._dag, self._dag_version, aliased(self._dag_version)
        latest = (
            sa.select(other.id)
            .where(other.dag_id == run.dag_id)
            .order_by(other.version_number.desc())
            .limit(1)
            .correlate(run)
            .scalar_subquery()
        )
        query = (
            sa.select(run.id, what)
            .join(dag, dag.dag_id == run.dag_id)
            .join(version, version.id == latest)
            .where(
                run.id.in_([examined.id for examined in runs]),
                run.state == "running",
                sa.func.coalesce(run.bundle_version, "") == "",
                run.run_after <= sa.func.now(),
                dag.is_paused.is_(False),
                dag.is_stale.is_(False),
                version.serialized_dag.has(),
            )
        )
        return dict(session.execute(query).all())

    def _forget_ended(self, session: Session) -> None:
        """Forget runs that have ended, or are gone: what is remembered must not grow with the years."""
        if remembered := self.memory.runs():
            run = self._dag_run
            going_on = sa.select(run.id).where(run.id.in_(remembered), run.state.not_in(("success", "failed")))
            self.memory.forget(remembered - set(session.scalars(going_on)))


def _will_be_verified(runner: SchedulerJobRunner, run: DagRun, session: Session) -> bool:
    """Say whether Airflow's _schedule_dag_run gets as far as verifying a run.

    One that it ends for its timeout, or leaves alone, must not be bumped: nobody would call verify_integrity for it.
    """
    if run.bundle_version:
        return False
    try:
        dag = dag_of(runner, run, session)
    except DBAPIError:
        raise
    except Exception:  # noqa: BLE001  (a DAG that cannot be read is its own run's trouble, and Airflow says so)
        return False
    now = datetime.now(timezone.utc)
    timed_out = dag and dag.dagrun_timeout and run.start_date and run.start_date < now - dag.dagrun_timeout
    in_future = run.logical_date and run.logical_date > now
    return bool(dag and not timed_out and not in_future)


def _is_on(run: DagRun, version: UUID, loop: Loop) -> bool:
    return bool(run.check_version_id_exists_in_dr(version, session=loop.session))
