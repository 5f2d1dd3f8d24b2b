"""The Airflow plugin: the real scheduler calls ``dagbump.bump`` once per loop, in its own transaction.

Airflow imports this module in each of its processes, and nothing happens there. With ``[dagbump] enabled = True``,
`turn_on` runs when the scheduler starts; it looks whether Airflow and the database are as this module expects, and
replaces four functions, each where Airflow itself calls it:

    SchedulerJobRunner._schedule_all_dag_runs            begins a `Loop`: one bump for all its runs
    SchedulerJobRunner._verify_integrity_if_dag_changed  asks the loop, in place of two queries for each run
    DagRun.get_running_dag_runs_to_examine               no longer loads every task instance (Airflow 3.0 and 3.1)
    DagVersion.get_latest_version                        within a loop, answered from one query for all its runs

dagbump never stops a scheduler: what does not fit costs a warning, and Airflow's own code runs. That which is said of
Airflow here was read in, and is tested with, 3.0.6, 3.1.6, 3.2.2 and 3.3.2.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import wraps
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

import sqlalchemy as sa
from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, aliased, lazyload

from dagbump import __version__, client
from dagbump.results import BumpResult

if TYPE_CHECKING:
    # Airflow's, whose models differ between its releases.
    DagRun = Any
    DagVersion = Any
    SchedulerJobRunner = Any

log = logging.getLogger(__name__)

_RELEASES = ("3.0", "3.1", "3.2", "3.3")
_SCHEDULER_MODULE = "airflow.jobs.scheduler_job_runner"
# Parameters by name, as Airflow 3.0 to 3.3 have them: of a function that is replaced, all; of one that is called, ours.
_REPLACED = {
    "SchedulerJobRunner._schedule_all_dag_runs": ["self", "guard", "dag_runs", "session"],
    "SchedulerJobRunner._verify_integrity_if_dag_changed": ["self", "dag_run", "session"],
    "DagRun.get_running_dag_runs_to_examine": ["session"],
}
_CALLED = {
    "DagRun.check_version_id_exists_in_dr": {"dag_version_id", "session"},
    "DagRun.verify_integrity": {"dag_version_id", "session"},
    "DagVersion.get_latest_version": {"dag_id", "session"},
}
# The modules in which that which is replaced, and what decorates it, were written, the outermost first.
_MAKERS = {
    "SchedulerJobRunner._schedule_all_dag_runs": ["airflow.utils.retries", _SCHEDULER_MODULE],
    "SchedulerJobRunner._verify_integrity_if_dag_changed": [_SCHEDULER_MODULE],
    "DagRun.get_running_dag_runs_to_examine": ["airflow.utils.retries", "airflow.models.dagrun"],
    "DagVersion.get_latest_version": ["airflow.utils.session", "airflow.models.dag_version"],
}


class Listener:
    """What Airflow calls when one of its processes starts."""

    @hookimpl
    def on_starting(self, component: object) -> None:
        """Turn dagbump on, if it is enabled and this process is a scheduler; say in one warning what does not fit."""
        try:
            scheduler = sys.modules.get(_SCHEDULER_MODULE)  # neither the triggerer nor the DAG processor imports it
            if scheduler is not None and _is_wanted(component):
                turn_on(scheduler)
        except (KeyboardInterrupt, SystemExit):
            raise
        # Whatever else it is, also what is no Exception: the scheduler has to start, and so have other listeners.
        except BaseException as why:  # noqa: BLE001
            log.warning(
                "dagbump stays off: %s The scheduler does its work without it; to try again, restart it.",
                _sentences(why),
            )


def _is_wanted(component: object) -> bool:
    from airflow.configuration import conf
    from airflow.exceptions import AirflowConfigException
    from airflow.jobs.job import Job

    if not isinstance(component, Job):  # a task that LocalExecutor has forked off the scheduler
        return False
    try:
        return bool(conf.getboolean("dagbump", "enabled", fallback=False))
    except AirflowConfigException as error:
        raise UnfitError(f"{error} It may be True or False") from error


class DagbumpPlugin(AirflowPlugin):
    """The plugin, as `airflow plugins` lists it."""

    name = "dagbump"
    listeners: ClassVar[list[object]] = [Listener()]


def turn_on(scheduler: ModuleType) -> None:
    """Make the schedulers of this process call dagbump; once, however often it is called.

    Args:
        scheduler: Airflow's module ``airflow.jobs.scheduler_job_runner``.

    Raises:
        Exception: something does not fit, and nothing has been replaced.
    """
    if hasattr(scheduler.SchedulerJobRunner, "dagbump"):
        return
    _require_known_airflow(scheduler)
    _require_installed()
    Scheduling(scheduler).replace()
    log.info("dagbump %s is on: one dagbump.bump per scheduler loop", __version__)


class UnfitError(Exception):
    """Airflow, or its configuration, is not what this module knows; the message says where."""


def _require_known_airflow(scheduler: ModuleType) -> None:
    from airflow import __version__ as release

    if ".".join(release.split(".")[:2]) not in _RELEASES:
        raise UnfitError(f"it knows Airflow {', '.join(_RELEASES)}, and this is {release}")
    for name, makers in _MAKERS.items():
        _require_made_by(makers, scheduler, name, release)
    for name, expected in _REPLACED.items():
        if (found := _parameters(scheduler, name)) != expected:
            raise UnfitError(f"{name} of Airflow {release} takes {found}, not {expected}")
    for name, needed in _CALLED.items():
        if not needed <= set(found := _parameters(scheduler, name)):
            raise UnfitError(f"{name} of Airflow {release} takes {found}, without {sorted(needed)}")


def _require_made_by(expected: list[str], scheduler: ModuleType, name: str, release: str) -> None:
    """Stay off where somebody else has patched a function: nobody would call the patch, and its retries would nest."""
    found = _makers(_find(scheduler, name))
    if others := [module for module in found if module not in expected]:
        raise UnfitError(
            f"{name} of Airflow {release} is patched by {', '.join(others)}, and dagbump would bypass that"
        )
    if found != expected:
        raise UnfitError(f"{name} of Airflow {release} is made by {', '.join(found)}, not by {', '.join(expected)}")


def _makers(function: Any) -> list[str]:
    """Return the modules in which a function, and what it wraps, were written, the outermost first."""
    wrappers: list[Any] = []
    innermost = inspect.unwrap(function, stop=wrappers.append)  # which returns None: do not stop
    return [_maker(layer) for layer in (*wrappers, innermost)]


def _maker(function: Any) -> str:
    # A wrapper passes itself off as what it wraps, by its __module__, or even its __class__; not by type and globals.
    if type(function) is MethodType:
        function = function.__func__
    if type(function) is FunctionType:
        return str(function.__globals__["__name__"])
    return type(function).__module__


def _parameters(scheduler: ModuleType, name: str) -> list[str]:
    return list(inspect.signature(_find(scheduler, name)).parameters)


def _find(scheduler: ModuleType, name: str) -> Any:
    found: Any = scheduler
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise UnfitError(f"{name} is not there")
    return found


def _require_installed() -> None:
    """Look for the schema, its revision, and the right to call the function, with a call that examines no run."""
    from airflow import settings
    from airflow.models.base import Base

    from dagbump.installation import state  # which the other processes do not need

    engine = settings.engine
    if engine is None or engine.dialect.name != "postgresql":
        raise UnfitError("it works on PostgreSQL alone")
    with engine.connect() as connection:
        state.require_usable(connection, Base.metadata.schema)
        client.bump(connection, dag_run_ids=[], caller_verifies=True)


@dataclass
class Loop:
    """One try of one scheduler loop. What it knows is good for this transaction, and no longer.

    Attributes:
        session: the scheduler's.
        versions: the latest version of each DAG, by dag_id.
        judged: ids of the runs of which the bump has said what is to be done, if only by its silence.
        due: ids of the runs for which verify_integrity is due.
        held: ids of the runs that have to wait, since another transaction holds their latest version.
        unmoved: the latest version of each unverified run all of whose stale task instances others hold, by run id.
        verified: ids of the runs for which verify_integrity has been called.
        lost: whether the bump has failed, or has gone with a rollback of the transaction.
            (`DagRun._create_task_instances` rolls back, and lets the loop go on, when somebody else has created the
            same task instance.)
    """

    session: Session
    versions: dict[str, DagVersion] = field(default_factory=dict)
    judged: set[int] = field(default_factory=set)
    due: set[int] = field(default_factory=set)
    held: set[int] = field(default_factory=set)
    unmoved: dict[int, UUID] = field(default_factory=dict)
    verified: set[int] = field(default_factory=set)
    lost: bool = False

    def knows(self, run: DagRun) -> bool:
        """Say whether the loop can answer for a run."""
        return not self.lost and run.id in self.judged


@dataclass
class Memory:
    """What loops that have committed leave to later ones, because the database does not say it.

    Attributes:
        unverified: ids of runs that were bumped, and whose verify_integrity was not called after all, or raised: the
            latest version is on their TIs now, so Airflow's own sign that it is due is gone.
        verified: the version for which verify_integrity has been called of each run that bears no sign of it, since
            all of its stale TIs are held by others; by run id. When they are let go, it is called once more, as
            Airflow's DAG processor may rewrite a version for as long as no TI refers to it.
    """

    unverified: set[int] = field(default_factory=set)
    verified: dict[int, UUID] = field(default_factory=dict)

    def due(self, loop: Loop, needs_verify: Iterable[int]) -> set[int]:
        """Return the runs that need a verify_integrity: by the bump's answer, but for what is remembered."""
        done = {run for run, version in loop.unmoved.items() if self.verified.get(run) == version}
        return (set(needs_verify) - done) | (self.unverified & loop.judged)

    def take(self, loop: Loop) -> None:
        """Remember what a loop has left undone, or has done without a sign."""
        self.unverified = (self.unverified | loop.due) - loop.verified
        for run in loop.judged - loop.unmoved.keys():
            self.verified.pop(run, None)
        self.verified |= {run: loop.unmoved[run] for run in loop.verified & loop.unmoved.keys()}

    def runs(self) -> set[int]:
        """Return the ids of all runs that something is remembered of."""
        return self.unverified | self.verified.keys()

    def forget(self, runs: Iterable[int]) -> None:
        """Forget runs."""
        for run in runs:
            self.unverified.discard(run)
            self.verified.pop(run, None)


class Scheduling:
    """The replaced functions, and what they share.

    Attributes:
        loop: the one under way, if any. Schedulers run one loop at a time, in one thread.
        memory: what is kept from one loop to the next.
        falling_back: whether the last bump failed.
    """

    def __init__(self, scheduler: ModuleType) -> None:
        self._runner = scheduler.SchedulerJobRunner
        self._dag = scheduler.DagModel
        self._dag_run = scheduler.DagRun
        self._dag_version = scheduler.DagVersion
        self._stats: Any = getattr(scheduler, "Stats", None) or scheduler.stats  # up to 3.2, from 3.3 on
        self.loop: Loop | None = None
        self.memory = Memory()
        self.falling_back = False

    def replace(self) -> None:
        """Put the four functions in the place of Airflow's: all of them, or on an error none."""
        replacements = [
            (self._runner, "_schedule_all_dag_runs", self._schedule_all()),
            (self._runner, "_verify_integrity_if_dag_changed", self._verify_if_due()),
            (self._dag_run, "get_running_dag_runs_to_examine", self._examine()),
            (self._dag_version, "get_latest_version", self._latest_of_loop()),
        ]
        # To all sessions, once: each loop's own listener would leave a weakref whose callback swallows a SIGTERM.
        sa.event.listen(Session, "after_soft_rollback", self._on_rollback)
        for owner, name, function in replacements:
            setattr(owner, name, function)
        self._runner.dagbump = self

    def _on_rollback(self, session: Session, _: object) -> None:
        if self.loop is not None and session is self.loop.session:
            self.loop.lost = True

    def _schedule_all(self) -> Any:
        from airflow.utils.retries import retry_db_transaction

        stock = self._runner._schedule_all_dag_runs.__wrapped__

        # Inside the retries: after a rollback, each try has to bump anew.
        @retry_db_transaction
        @wraps(stock)
        def _schedule_all_dag_runs(
            runner: SchedulerJobRunner, guard: Any, dag_runs: Iterable[DagRun], session: Session
        ) -> Any:
            runs = list(dag_runs)
            with self.looping(runner, runs, session):
                return stock(runner, guard, runs, session)

        return _schedule_all_dag_runs

    def _verify_if_due(self) -> Any:
        stock = self._runner._verify_integrity_if_dag_changed

        @wraps(stock)
        def _verify_integrity_if_dag_changed(runner: SchedulerJobRunner, dag_run: DagRun, session: Session) -> Any:
            if self.loop is None or not self.loop.knows(dag_run):
                return stock(runner, dag_run=dag_run, session=session)
            return self.verify(runner, self.loop, dag_run)

        return _verify_integrity_if_dag_changed

    def _examine(self) -> Any:
        from airflow.utils.retries import retry_db_transaction

        stock = self._dag_run.get_running_dag_runs_to_examine.__wrapped__
        if "joinedload" not in stock.__code__.co_names:  # from 3.2 on
            return vars(self._dag_run)["get_running_dag_runs_to_examine"]
        # The same code, in which joinedload(task_instances) is lazyload, the default.
        lazy = FunctionType(stock.__code__, stock.__globals__ | {"joinedload": lazyload}, stock.__name__)
        return classmethod(retry_db_transaction(wraps(stock)(lazy)))

    def _latest_of_loop(self) -> Any:
        stock = self._dag_version.get_latest_version.__func__

        @wraps(stock)
        def get_latest_version(cls: Any, /, dag_id: str, **options: Any) -> DagVersion:
            loop = self.loop
            # Any other option asks for something else than a scheduler's loop does.
            if loop is not None and not loop.lost and options == {"session": loop.session} and dag_id in loop.versions:
                return loop.versions[dag_id]
            return stock(cls, dag_id, **options)

        return classmethod(get_latest_version)

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
            log.info("The latest version of DAG %s is locked; run %s waits for the next loop", run.dag_id, run.run_id)
            return False
        if run.id not in loop.due:
            return True
        run.dag = _dag_of(runner, run, loop.session)
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
            with self._stats.timer("dagbump.bump"), loop.session.connection().begin_nested():
                self._forget_ended(loop.session)
                result = self._ask(runner, runs, loop)
        except Exception as error:
            loop.lost = True  # whatever it has learnt so far
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise  # nothing can run on it; Airflow tries again on another
            self._fall_back(error)
        else:
            self._report(result)

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

    def _report(self, result: BumpResult) -> None:
        if self.falling_back:
            log.info("dagbump works again")
            self.falling_back = False
        if result.bumped:
            self._stats.incr("dagbump.task_instances_bumped", result.bumped)
        if result.locked:
            self._stats.incr("dagbump.task_instances_locked", result.locked)

    def _fall_back(self, error: Exception) -> None:
        self._stats.incr("dagbump.fallback")
        if not self.falling_back:
            log.warning(
                "dagbump has failed: %s Airflow's own code does this loop, and each until dagbump works again.",
                _sentences(error),
            )
        self.falling_back = True


def _will_be_verified(runner: SchedulerJobRunner, run: DagRun, session: Session) -> bool:
    """Say whether Airflow's _schedule_dag_run gets as far as verifying a run.

    One that it ends for its timeout, or leaves alone, must not be bumped: nobody would call verify_integrity for it.
    """
    if run.bundle_version:
        return False
    try:
        dag = _dag_of(runner, run, session)
    except DBAPIError:
        raise
    except Exception:  # noqa: BLE001  (a DAG that cannot be read is its own run's trouble, and Airflow says so)
        return False
    now = datetime.now(timezone.utc)
    timed_out = dag and dag.dagrun_timeout and run.start_date and run.start_date < now - dag.dagrun_timeout
    in_future = run.logical_date and run.logical_date > now
    return bool(dag and not timed_out and not in_future)


def _dag_of(runner: SchedulerJobRunner, run: DagRun, session: Session) -> Any:
    bag = runner.scheduler_dag_bag
    get_dag = getattr(bag, "get_dag_for_run", None) or bag.get_dag  # from 3.1 on, 3.0
    return get_dag(dag_run=run, session=session)


def _is_on(run: DagRun, version: UUID, loop: Loop) -> bool:
    return bool(run.check_version_id_exists_in_dr(version, session=loop.session))


def _sentences(error: BaseException) -> str:
    """Return what an error says, each line a sentence, without the SQL that SQLAlchemy adds."""
    lines = map(str.strip, str(getattr(error, "orig", None) or error).splitlines())
    sentences = (line if line.endswith((".", "!", ":", ",")) else f"{line}." for line in lines if line)
    return " ".join(sentences) or f"{type(error).__name__}."
