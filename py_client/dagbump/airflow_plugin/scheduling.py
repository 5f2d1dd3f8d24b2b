"""The work in a scheduler's loop: one bump for all its runs, and verify_integrity for the runs that need it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from time import monotonic
from types import ModuleType
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from dagbump import client
from dagbump.airflow_metrics import Metric
from dagbump.airflow_plugin import callers, compatibility, reporting, verification
from dagbump.airflow_plugin.compatibility import DagRun
from dagbump.airflow_plugin.loop import Health, Loop, Memory
from dagbump.airflow_plugin.verification import RolledBackError, VerifyError, would_do_nothing
from dagbump.results import BumpResult, RunBump
from dagbump.wording import describe_holder

_TAKE_VERSION = sa.text("SELECT dagbump.take_version(CAST(:version AS pg_catalog.uuid), NULL, NULL, NULL, TRUE)")


class Scheduling:
    """The state that the replaced functions share, and the work of a loop.

    Attributes:
        loop: the current loop, or None between loops. A scheduler runs one loop at a time, in one thread.
        memory: what is kept from one loop to the next.
    """

    def __init__(self, scheduler: ModuleType, warn_held_after: float, missing_tasks_interval: float) -> None:
        """Set up for the schedulers of this process.

        Args:
            scheduler: Airflow's module ``airflow.jobs.scheduler_job_runner``.
            warn_held_after: warn when task instances or the version of a run have been locked for more than this many
                seconds; 0: never.
            missing_tasks_interval: look for missing tasks in each run once in this many seconds; 0: never.
        """
        self._reporter = reporting.Reporter(compatibility.stats_of(scheduler))
        self._knows_regions = compatibility.knows_regions(scheduler)
        self._knows_verify = compatibility.verify_is_airflows_own(scheduler)
        self._bumps, self._scopes, self._version_locks, self._holders = Health(), Health(), Health(), Health()
        self.loop: Loop | None = None
        self.memory = Memory(missing_tasks_interval, warn_held_after)

    def on_rollback(self, session: Session, transaction: Any) -> None:
        """Tell the current loop that its session's transaction, or a savepoint in it, has been rolled back."""
        if self.loop is not None and session is self.loop.session:
            self.loop.rolled_back(transaction)

    @contextmanager
    def looping(self, loop: Loop, runs: list[DagRun]) -> Iterator[list[DagRun]]:
        """Begin a loop with one bump, yield the runs that Airflow is to schedule, and update the memory at the end."""
        self.loop = loop
        try:
            self.memory.see(run.id for run in runs)
            self._bump(loop, runs)
            with compatibility.finding_dags_with(loop.runner, loop.dag_of_run, loop.knows):
                yield self._without_waiting(loop, runs)
            if not loop.lost:
                self.memory.take(loop)
                self._tell(loop)
        finally:
            self.loop = None

    def verify(self, loop: Loop, run: DagRun) -> bool:
        """Do the work of _verify_integrity_if_dag_changed; with False, Airflow leaves the run to a later loop."""
        version = loop.version_of(run.id)
        mending = run.id in loop.mendable
        if not (mending or run.id in loop.unverified) or not self.memory.may_try(run.id, version):
            return True
        if mending:
            self.memory.tries(run.id, version)
        try:
            self._verify(loop, run, mending=mending)
        except Exception as error:
            if _is_over(loop.session, error):
                raise
            if mending or isinstance(error, DBAPIError | VerifyError | RolledBackError):
                return self._goes_on_after(error, loop, run, mending=mending)
            # The error came from dagbump's own code, so call verify_integrity as Airflow does.
            run.dag = loop.dag_of(version)
            run.verify_integrity(dag_version_id=version, session=loop.session)
        loop.verified.add(run.id)
        return True

    def _goes_on_after(self, error: Exception, loop: Loop, run: DagRun, *, mending: bool) -> bool:
        """Return whether a run is scheduled although verify_integrity raised; if not, the next loop tries again.

        After the first error the run waits for a second try, because the error may be temporary and the run could end
        without its new tasks. After the second error it goes on. But while the latest version is on none of its task
        instances, it waits as long as verify_integrity raises, as it does without dagbump.
        """
        answer, memory = loop.answers[run.id], self.memory.runs[run.id]
        lost_a_race = isinstance(error, RolledBackError)
        if lost_a_race and memory.tell(("race", answer.dag_version_id)):
            return True  # the next loop tries again
        first = memory.tell(("raised", answer.dag_version_id))
        if first:
            reporting.verify_failed(answer, error.__cause__ or error)
        unmarked = answer.needs_verify and not answer.bumped
        if not mending and not lost_a_race and (first or unmarked):
            _go_to_the_end(run)
            return False
        self.memory.tries(run.id, answer.dag_version_id)
        return True

    def _verify(self, loop: Loop, run: DagRun, *, mending: bool) -> None:
        """Call verify_integrity if it would do something, and only then open a savepoint: that flushes the session."""
        scope = loop.scopes.get(run.id)
        if mending:
            scope = scope and verification.only_what_is_missing(scope)
            if scope is None:
                return  # no task is known to be missing, and the live TIs must not change
        elif not self._can_be_spared():
            scope = None
        if scope and would_do_nothing(scope):
            self._reporter.count(Metric.VERIFY_SKIPPED)
            return
        if scope and scope.has_mapped and self._knows_regions:
            scope = None  # a scope does not say which TIs verify_integrity reads in regions
        with loop.savepoint():
            run.dag = self._dag_to_verify(loop, run)
            self._reporter.count(Metric.VERIFY)
            verification.verify_integrity(run, loop.version_of(run.id), scope, loop.session)
            if scope is None or scope.restored_tasks:
                self._move_restored(loop, run)

    def _dag_to_verify(self, loop: Loop, run: DagRun) -> Any:
        """Return the DAG of a run; read it again if the scheduler's cache lacks tasks that the database has."""
        version, scope = loop.version_of(run.id), loop.scopes.get(run.id)
        dag = loop.dag_of(version)
        if scope and not dag.task_dict.keys() >= set(scope.missing_tasks or ()):
            compatibility.forget_dag(loop.runner, version)
            loop.dags[version] = dag = compatibility.dag_of_version(loop.runner, version, loop.session) or dag
        return dag

    def _move_restored(self, loop: Loop, run: DagRun) -> None:
        """Move the TIs that verify_integrity has restored, because REMOVED TIs are still on their old version."""
        with loop.session.connection().begin_nested() as savepoint:
            if any(row.dag_version_id != loop.version_of(run.id) for row in _call_bump(loop, [run.id]).runs):
                savepoint.rollback()  # a newer version has landed, and the run is not verified for it

    def _without_waiting(self, loop: Loop, runs: list[DagRun]) -> list[DagRun]:
        """Return the runs that are to be scheduled; waiting runs go to the end of Airflow's order."""
        waiting = [run for run in runs if loop.knows(run) and run.id in loop.waiting]
        for run in waiting:
            _go_to_the_end(run)
            if loop.version_of(run.id) not in self.memory.waited_for:
                self.memory.waited_for.add(loop.version_of(run.id))
                reporting.waits(loop.answers[run.id])
        return [run for run in runs if run not in waiting]

    def _bump(self, loop: Loop, runs: list[DagRun]) -> None:
        """Bump the runs of a loop; after an error the loop is lost, and Airflow's own code does the work."""
        fit = {run.id: run for run in runs if self.memory.may_be_bumped(run.id) and not _is_left_alone(run)}
        if not fit:
            return
        if not self._bumps.may_be_called():
            loop.lost = True
            self._reporter.count(Metric.FALLBACK)
            return
        began = monotonic()
        try:
            loop.outer = loop.session.get_nested_transaction()
            while fit and (unfit := self._bump_unless_unfit(loop, fit)):
                for run in unfit:
                    self.memory.leave_to_airflow(run)
                    del fit[run]
        except Exception as error:
            loop.lost = True
            if _is_over(loop.session, error):
                raise
            self._reporter.count(Metric.FALLBACK)
            if self._bumps.fails(began):
                reporting.bump_failed(error)
            return
        if self._bumps.works():
            reporting.bump_works_again()
        self._reporter.bumped(loop.answers.values(), self.memory.oldest_look(loop.answers))
        self._warn_of_holders(loop)

    def _bump_unless_unfit(self, loop: Loop, runs: dict[int, DagRun]) -> set[int]:
        """Bump these runs; if Airflow would not call verify_integrity for some of them, undo it and return these."""
        # Not session.begin_nested(), because prohibit_commit would take the end of that savepoint for a commit.
        with loop.session.connection().begin_nested() as savepoint:
            with self._reporter.timer():
                result = _call_bump(loop, list(runs))
            touched = [row for row in result.runs if row.bumped or row.locked or row.needs_verify]
            unfit = {row.dag_run_id for row in touched if not _is_fit(loop, runs[row.dag_run_id], row.dag_version_id)}
            if unfit:
                savepoint.rollback()
            else:
                self._take(result, loop, runs)
                self._ask_for_scopes(loop)
        return unfit

    def _take(self, result: BumpResult, loop: Loop, runs: dict[int, DagRun]) -> None:
        """Store the result of a bump in the loop; a run that is missing in it is left to Airflow's own code."""
        for row in result.runs:
            run, memory = row.dag_run_id, self.memory.runs[row.dag_run_id]
            loop.answers[run] = row
            memory.look_again |= row.bumped > 0
            if _waits(runs[run], row, loop.session):
                loop.waiting.add(run)
            elif memory.unverified or (row.needs_verify and memory.verified != row.dag_version_id):
                loop.unverified.add(run)
            elif row.needs_verify and row.bumped and self._knows_verify:
                loop.mendable.add(run)

    def _ask_for_scopes(self, loop: Loop) -> None:
        """Ask what verify_integrity would find in runs that are unverified, wait, or are due for a look.

        If the query fails, verify_integrity is called in full for unverified runs. If a newer version has landed since
        the bump, the result is about the newer version, and the next loop verifies for it.
        """
        dag_ids = {run: row.dag_id for run, row in loop.answers.items() if run not in loop.waiting}
        to_look_at = self.memory.to_look_at(dag_ids)
        due = {run for run in loop.unverified | loop.mendable if self.memory.may_try(run, loop.version_of(run))}
        asked = due | to_look_at | loop.waiting
        if not asked:
            return

        def ask() -> None:
            scopes = client.verify_scope(loop.session, asked)
            loop.scopes = {scope.dag_run_id: scope for scope in scopes if scope.missing_tasks is not None}
            self.memory.looked_at(to_look_at)

        _attempt(loop, self._scopes, ask, reporting.scope_failed)
        if self._can_be_spared():
            # verify_integrity would do nothing in these runs, so they do not need the locked version.
            loop.waiting -= {run for run, scope in loop.scopes.items() if would_do_nothing(scope)}
        if self._knows_verify:
            loop.mendable |= self._lacking(to_look_at - loop.unverified - loop.mendable, loop)

    def _lacking(self, runs: set[int], loop: Loop) -> set[int]:
        """Return the runs that lack a task and whose version can be locked as the foreign key of a new TI locks it."""
        lacking = {run for run in runs if run in loop.scopes and loop.scopes[run].missing_tasks}
        versions = {loop.version_of(run) for run in lacking}
        free: set[UUID] = set()

        def lock() -> None:
            connection = loop.session.connection()
            free.update(version for version in versions if connection.scalar(_TAKE_VERSION, {"version": str(version)}))

        if versions:
            _attempt(loop, self._version_locks, lock, reporting.cannot_lock_version)
        return {run for run in lacking if loop.version_of(run) in free}

    def _can_be_spared(self) -> bool:
        """Return whether verify_integrity has only effects that dagbump knows, so that a call may be skipped."""
        return self._knows_verify and not compatibility.task_instances_are_mutated()

    def _warn_of_holders(self, loop: Loop) -> None:
        """Log who has locked runs for long. If this look-up fails, the loop goes on."""
        late = {row.dag_run_id: row for row in self.memory.locked_for_long(loop.answers.values())}

        def warn() -> None:
            connection = loop.session.connection()  # not the session, which would be flushed
            oldest = {holder.dag_run_id: holder for holder in reversed(client.holders(connection, late))}
            now = client.server_time(connection)
            for run, holder in oldest.items():
                reporting.held_for_long(late[run], self.memory.warn_held_after, describe_holder(holder, now))

        if late:
            _attempt(loop, self._holders, warn, reporting.cannot_name_holders)

    def _tell(self, loop: Loop) -> None:
        """Log the findings of a loop that has committed."""
        for run, scope in loop.scopes.items():
            answer, tell = loop.answers[run], self.memory.runs[run].tell
            if scope.missing_tasks and run in loop.mendable & loop.verified:
                # If a newer version landed after the bump, the scope may name tasks that only that version has.
                dag = loop.dags[answer.dag_version_id]
                if made := dag.task_dict.keys() & set(scope.missing_tasks):
                    reporting.mended(answer, sorted(made))
            if vanished := [task for task in scope.vanished_tasks or () if tell(("vanished", task))]:
                self._reporter.vanished(answer, vanished)


def _call_bump(loop: Loop, runs: list[int]) -> BumpResult:
    return client.bump(loop.session, dag_run_ids=runs, caller_verifies=True, report_all=True, caller=callers.SCHEDULER)


def _attempt(loop: Loop, health: Health, call: Callable[[], None], failed: Callable[[Exception], None]) -> None:
    """Call dagbump in a savepoint; if that fails, roll back only the savepoint, and log the error."""
    if not health.may_be_called():
        return
    began = monotonic()
    try:
        with loop.session.connection().begin_nested():
            call()
    except Exception as error:
        if _is_over(loop.session, error):
            raise
        if health.fails(began):
            failed(error)
    else:
        health.works()


def _is_over(session: Session, error: Exception) -> bool:
    """Return whether the transaction is unusable after this error; then Airflow rolls back and tries the loop again.

    It is unusable if the connection is lost or if a flush outside of any savepoint has failed.
    """
    return not session.is_active or (isinstance(error, DBAPIError) and error.connection_invalidated)


def _is_fit(loop: Loop, run: DagRun, version: UUID) -> bool:
    """Return whether Airflow would verify a run; it skips a run that has no DAG or is past its timeout."""
    try:
        dag = loop.dag_of(version)
    except DBAPIError:
        raise
    except Exception:  # noqa: BLE001  (an unreadable DAG concerns only this run, and Airflow reports it)
        return False
    now = datetime.now(timezone.utc)
    return bool(dag) and not (dag.dagrun_timeout and run.start_date and run.start_date < now - dag.dagrun_timeout)


def _is_left_alone(run: DagRun) -> bool:
    """Return whether Airflow never verifies this run, because it is pinned or its logical date is in the future."""
    return bool(run.bundle_version or (run.logical_date and run.logical_date > datetime.now(timezone.utc)))


def _waits(run: DagRun, row: RunBump, session: Session) -> bool:
    """Return whether a run is unverified, although its answer does not say so, because the latest version is locked."""
    if row.bumped or row.needs_verify or not row.locked:
        return False
    return not run.check_version_id_exists_in_dr(row.dag_version_id, session=session)


def _go_to_the_end(run: DagRun) -> None:
    """Move a run that is not scheduled in this loop to the end of Airflow's order."""
    run.last_scheduling_decision = datetime.now(timezone.utc)
