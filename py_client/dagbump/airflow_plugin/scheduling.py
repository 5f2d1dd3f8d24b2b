"""What dagbump does in a scheduler's loop: one bump for all its runs, and verify_integrity for those that need it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
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
from dagbump.airflow_plugin.compatibility import (
    DagRun,
    DagVersion,
    SchedulerJobRunner,
    dag_of,
    forget_dag,
    knows_regions,
    stats_of,
    task_instances_are_mutated,
    verify_is_airflows_own,
)
from dagbump.airflow_plugin.loop import HeldRuns, Loop, Memory
from dagbump.airflow_plugin.reporting import Reporter
from dagbump.airflow_plugin.verification import few_task_instances, would_do_nothing
from dagbump.errors import sqlstate
from dagbump.held import describe
from dagbump.results import BumpResult, RunScope

_SET_LOCK_TIMEOUT = sa.text("SELECT pg_catalog.set_config('lock_timeout', :timeout, TRUE)")
_LOCK_NOT_AVAILABLE = "55P03"


class Scheduling:
    """What the replaced functions share: the loop under way, and the work that is done in it.

    Attributes:
        loop: the one under way, if any. Schedulers run one loop at a time, in one thread.
        memory: what is kept from one loop to the next.
        missing_tasks_interval: missing tasks are looked for in a run once in so many seconds; 0: never.
    """

    def __init__(self, scheduler: ModuleType, warn_held_after: float, missing_tasks_interval: float) -> None:
        """Prepare.

        Args:
            scheduler: Airflow's module ``airflow.jobs.scheduler_job_runner``.
            warn_held_after: for so many seconds others may hold something of a run before a warning; 0: for ever.
            missing_tasks_interval: missing tasks are looked for in a run once in so many seconds; 0: never.
        """
        self._held = HeldRuns(warn_held_after)
        self._dag = scheduler.DagModel
        self._dag_run = scheduler.DagRun
        self._dag_version = scheduler.DagVersion
        self._reporter = Reporter(stats_of(scheduler))
        self.missing_tasks_interval = missing_tasks_interval
        self._knows_regions = knows_regions(scheduler)
        self._knows_verify = verify_is_airflows_own(scheduler)
        self.loop: Loop | None = None
        self.memory = Memory()

    def on_rollback(self, session: Session, _: object) -> None:
        """Take notice that a session has been rolled back."""
        if self.loop is not None and session is self.loop.session:
            self.loop.lost = True

    @contextmanager
    def looping(self, runner: SchedulerJobRunner, runs: list[DagRun], session: Session) -> Iterator[None]:
        """Begin a loop with one bump; at its end, after the commit, say what was mended, and remember what was not."""
        self.loop = Loop(session)
        try:
            self._bump(runner, runs, self.loop)
            yield
            if not self.loop.lost:
                self.memory.take(self.loop)
                for dag_id, run_id, tasks in self.loop.mended:
                    reporting.mended(dag_id, run_id, tasks)
        finally:
            self.loop = None

    def verify(self, runner: SchedulerJobRunner, loop: Loop, run: DagRun) -> bool:
        """Do what is left of _verify_integrity_if_dag_changed; False lets Airflow leave the run to a later loop."""
        if run.id in loop.held:
            reporting.waits(run.dag_id, run.run_id)
            return False
        if run.id not in loop.due:
            return True
        scope = loop.scopes.get(run.id)
        run.dag = self._dag_to_verify(runner, loop, run, scope)
        if not run.dag:
            return False
        self._verify(loop, run, scope if self._can_be_spared() else None)
        loop.verified.add(run.id)
        if scope and run.id in loop.lacking:
            loop.mended.append((run.dag_id, run.run_id, scope.missing_tasks or ()))
        return True

    def _dag_to_verify(self, runner: SchedulerJobRunner, loop: Loop, run: DagRun, scope: RunScope | None) -> Any:
        """Return the DAG of a run; where the scheduler holds one that has been rewritten since, the new one."""
        dag = dag_of(runner, run, loop.session)
        if dag and scope and not dag.task_dict.keys() >= set(scope.missing_tasks or ()):
            forget_dag(runner, loop.versions[run.dag_id])
            dag = dag_of(runner, run, loop.session)
        return dag

    def _verify(self, loop: Loop, run: DagRun, scope: RunScope | None) -> None:
        """Call verify_integrity for what there is to do; without a scope, as Airflow does."""
        if scope and would_do_nothing(scope):
            self._reporter.verify_skipped()
            return
        if scope and scope.has_mapped and self._knows_regions:
            scope = None  # of which TIs it looks at there, that says too little
        self._reporter.verified()
        loop.session.expire(run, ["task_instances"])
        with few_task_instances(run, scope, loop.session) if scope else nullcontext():
            run.verify_integrity(dag_version_id=loop.versions[run.dag_id].id, session=loop.session)

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
        scopes = self._scopes(result, {run.id: run.dag_id for run in candidates}, loop)
        after = self._latest_versions(candidates, loop.session, self._dag_version.id)
        # The bump is silent about a run where nothing is due, but also about one that it has not examined, or has left
        # to another call, since a newer version landed. Nothing is due where the run was to be examined both before and
        # after, for the same version: unless that has changed, and changed back, during the bump.
        unchanged = {run: before[run] for run, version in after.items() if before[run].id == version}
        self._take(result, candidates, unchanged, loop)
        self._take_scopes(scopes, candidates, after, loop)
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

    def _scopes(self, result: BumpResult, dag_ids: dict[int, str], loop: Loop) -> tuple[RunScope, ...]:
        """Ask what verify_integrity would find: in runs that are due, and once in a while in the others.

        Where that fails, Airflow's own sign decides.
        """
        asked: set[int] = set()
        if self._can_be_spared():
            asked = ({row.dag_run_id for row in result.needs_verify} | self.memory.unverified) & dag_ids.keys()
        if self.missing_tasks_interval:
            loop.looked_at = self.memory.to_look_at(dag_ids, self.missing_tasks_interval)
        if not asked | loop.looked_at:
            return ()
        try:
            with loop.session.connection().begin_nested():
                scopes = client.verify_scope(loop.session, asked | loop.looked_at)
        except Exception as error:
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise
            self._reporter.scope_failed(error)
            return ()
        self._reporter.scoped()
        return scopes

    def _take_scopes(
        self, scopes: Collection[RunScope], candidates: list[DagRun], after: dict[int, UUID], loop: Loop
    ) -> None:
        """Keep the scopes that are of the loop's versions, and let runs be verified that lack a task."""
        # Asked before the second look at the latest versions: where that shows the loop's version, so did they.
        current = {
            run.id
            for run in candidates
            if run.dag_id in loop.versions and after.get(run.id) == loop.versions[run.dag_id].id
        }
        loop.scopes = {
            scope.dag_run_id: scope
            for scope in scopes
            if scope.dag_run_id in current and scope.missing_tasks is not None
        }
        lacking = {run for run, scope in loop.scopes.items() if scope.missing_tasks and run in loop.judged}
        loop.lacking = self._free_to_verify(lacking - loop.due - loop.held, candidates, loop)
        loop.due |= loop.lacking

    def _free_to_verify(self, lacking: set[int], candidates: list[DagRun], loop: Loop) -> set[int]:
        """Lock the versions of these runs, for which new TIs would wait; leave runs alone whose version others hold."""
        if not lacking:
            return lacking
        dag_ids = {run.id: run.dag_id for run in candidates if run.id in lacking}
        version = self._dag_version
        query = (
            sa.select(version.id)
            .where(version.id.in_({loop.versions[dag_id].id for dag_id in dag_ids.values()}))
            .with_for_update(read=True, key_share=True, skip_locked=True)
        )
        connection = loop.session.connection()
        try:
            with connection.begin_nested():
                # Of a version that was updated before it was locked, SKIP LOCKED waits: see dagbump.take_version.
                before = connection.scalar(sa.text("SELECT pg_catalog.current_setting('lock_timeout')"))
                connection.execute(_SET_LOCK_TIMEOUT, {"timeout": "1ms"})
                free = set(connection.scalars(query))
                connection.execute(_SET_LOCK_TIMEOUT, {"timeout": before})
        except DBAPIError as error:
            if sqlstate(error) != _LOCK_NOT_AVAILABLE:
                raise
            return set()
        return {run for run, dag_id in dag_ids.items() if loop.versions[dag_id].id in free}

    def _can_be_spared(self) -> bool:
        """Say whether verify_integrity does only what dagbump knows of."""
        return self._knows_verify and not task_instances_are_mutated()

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
