"""The facts that a scheduler's loop knows about its runs, and the memory that it leaves to later loops."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice, takewhile
from math import inf
from time import monotonic
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from dagbump.airflow_plugin.compatibility import DagRun, SchedulerJobRunner, dag_of_version
from dagbump.results import RunBump, RunScope

_DAGS_PER_LOOK = 10
_RETRY_SECONDS = 60.0  # the pause between tries if missing_tasks_interval is 0
_WARN_SECONDS = 60.0  # a function that fails again and again is not logged more often
# A call that fails late, for example because of a statement_timeout, slows down its loop. If it took more than so many
# seconds, the next call is made after ten times as long.
_LATE_SECONDS = 0.5
_REST = 10
# How long the memory keeps a run that is no longer examined; longer if the run is still unverified.
_FORGET_SECONDS = 3600.0
_FORGET_UNVERIFIED_SECONDS = 24 * 3600.0


@dataclass
class Loop:
    """One try of one scheduler loop; its facts are valid only in this transaction.

    All runs are given by ``dag_run.id``.

    Attributes:
        runner: the scheduler.
        session: the scheduler's session.
        savepoint: opens a savepoint in the session's transaction, for a part of the work that may fail alone.
        outer: the session's innermost savepoint when the loop began; None if there was none.
        answers: the rows that the bump returned, by run.
        dags: the DAGs that have been looked up, by version.
        waiting: the runs that have to wait, because they need verify_integrity and their latest version is locked.
        unverified: the runs for which verify_integrity is due.
        mendable: the runs in which a task may be added but no live task instance may change. They lack a task although
            Airflow takes them for verified, or they have been verified for this version already.
        scopes: the rows that verify_scope returned, by run.
        verified: the runs for which verify_integrity has been called or would do nothing.
        lost: True if the bump failed or was rolled back with the transaction.
    """

    runner: SchedulerJobRunner
    session: Session
    savepoint: Callable[[], AbstractContextManager[Any]]
    outer: Any = None
    answers: dict[int, RunBump] = field(default_factory=dict)
    dags: dict[UUID, Any] = field(default_factory=dict)
    waiting: set[int] = field(default_factory=set)
    unverified: set[int] = field(default_factory=set)
    mendable: set[int] = field(default_factory=set)
    scopes: dict[int, RunScope] = field(default_factory=dict)
    verified: set[int] = field(default_factory=set)
    lost: bool = False

    def knows(self, run: DagRun) -> bool:
        """Return whether the bump returned this run and is still valid."""
        return not self.lost and run.id in self.answers

    def version_of(self, run: int) -> UUID:
        """Return the latest version of a run's DAG; the loop must know the run."""
        return self.answers[run].dag_version_id

    def dag_of(self, version: UUID) -> Any:
        """Return the DAG of a version, which is read once per loop; None if there is no DAG."""
        if version not in self.dags:
            self.dags[version] = dag_of_version(self.runner, version, self.session)
        return self.dags[version]

    def dag_of_run(self, run: DagRun) -> Any:
        """Return the DAG of a run that the loop knows; None if there is no DAG."""
        return self.dag_of(self.version_of(run.id))

    def rolled_back(self, transaction: Any) -> None:
        """Mark the loop as lost if this rollback undoes the bump.

        The rollback of a savepoint that began after the bump does not undo it. Neither does a failed flush inside such
        a savepoint.
        """
        while transaction is not None and not transaction.nested:
            transaction = transaction.parent
        if transaction is None or transaction is self.outer:
            self.lost = True


@dataclass(slots=True)
class RunMemory:
    """Facts about one run that are not in the database; times are of the monotonic clock.

    Attributes:
        since: when a loop first examined the run.
        seen: when a loop last examined it.
        looked_at: when the plugin last looked for missing tasks in it.
        look_again: look for missing tasks in the next loop, because the last loop verified the run and its version may
            have been rewritten since, or because this loop moves TIs.
        unverified: the run was bumped, but verify_integrity was not called for it, or raised. The latest version is on
            its TIs now, so Airflow no longer sees that verify_integrity is due.
        verified: the version for which verify_integrity has been called although the run still looks unverified,
            because all of its stale TIs are locked. When the locks are released, only missing tasks are added.
        tried: the version for which verify_integrity raised, or was called by a loop that has not committed; and when.
        airflows_until: until this time the run is left to Airflow's own code, because Airflow would not verify it.
        locked_since: since when stale TIs or the latest version have been locked; None if they are not; inf if that has
            been logged.
        told: what has been logged about it already.
    """

    since: float
    seen: float = 0.0
    looked_at: float = -inf
    look_again: bool = False
    unverified: bool = False
    verified: UUID | None = None
    tried: tuple[UUID, float] | None = None
    airflows_until: float = -inf
    locked_since: float | None = None
    told: set[Hashable] = field(default_factory=set)

    def tell(self, what: Hashable) -> bool:
        """Return whether this has not been logged yet, and record it as logged."""
        news = what not in self.told
        self.told.add(what)
        return news


@dataclass
class Health:
    """Whether the calls of one function of dagbump succeed; times are of the monotonic clock.

    Attributes:
        rests_until: until this time the function is not called, because its last call failed late.
        warned_at: when a failure was last logged.
        is_told: a failure has been logged, and no call has succeeded since.
    """

    rests_until: float = -inf
    warned_at: float = -inf
    is_told: bool = False

    def may_be_called(self) -> bool:
        """Return whether the function is called; if not, the loop goes on as if the call had failed."""
        return monotonic() >= self.rests_until

    def fails(self, began: float) -> bool:
        """Record that a call failed, which began at this time; return whether to log it."""
        now = monotonic()
        if now - began > _LATE_SECONDS:
            self.rests_until = now + _REST * (now - began)
        if self.is_told or now - self.warned_at < _WARN_SECONDS:
            return False
        self.is_told, self.warned_at = True, now
        return True

    def works(self) -> bool:
        """Record that a call succeeded; return whether to log that the function works again."""
        was_told, self.is_told = self.is_told, False
        return was_told


@dataclass
class Memory:
    """The memory that loops leave to later loops.

    Attributes:
        interval: look for missing tasks in each run once in this many seconds; 0: never.
        warn_held_after: warn when rows of a run have been locked for more than this many seconds; 0: never.
        runs: the memory of each run, by ``dag_run.id``.
        waited_for: the locked versions that have been logged.
    """

    interval: float
    warn_held_after: float
    runs: dict[int, RunMemory] = field(default_factory=dict)
    waited_for: set[UUID] = field(default_factory=set)

    def see(self, runs: Iterable[int]) -> None:
        """Record the runs that a loop examines, and forget runs that no loop has examined for long."""
        now = monotonic()
        for run in runs:
            memory = self.runs.pop(run, None) or RunMemory(now)
            memory.seen = now
            self.runs[run] = memory  # at the end, so that the runs seen longest ago come first
        for run, memory in [*takewhile(lambda item: now - item[1].seen > _FORGET_SECONDS, self.runs.items())]:
            if not memory.unverified or now - memory.seen > _FORGET_UNVERIFIED_SECONDS:
                del self.runs[run]

    def may_be_bumped(self, run: int) -> bool:
        """Return whether a run may be bumped, because no recent loop found that Airflow would not verify it."""
        return self.runs[run].airflows_until < monotonic()

    def leave_to_airflow(self, run: int) -> None:
        """Leave a run to Airflow's own code for some time."""
        self.runs[run].airflows_until = monotonic() + _RETRY_SECONDS

    def may_try(self, run: int, version: UUID) -> bool:
        """Return whether verify_integrity may be called; after an error, it may be called once per interval."""
        tried = self.runs[run].tried
        return tried is None or tried[0] != version or monotonic() - tried[1] >= (self.interval or _RETRY_SECONDS)

    def tries(self, run: int, version: UUID) -> None:
        """Record a call of verify_integrity; the record is removed when a loop commits the call."""
        self.runs[run].tried = (version, monotonic())

    def to_look_at(self, dag_ids: Mapping[int, str]) -> set[int]:
        """Return the runs in which to look for missing tasks; they are of a few DAGs, longest waiting first.

        The database has to unpack each DAG, which takes milliseconds, so the other DAGs follow in the next loops. The
        runs that are marked with ``look_again`` are always included.
        """
        if not self.interval:
            return set()
        begin = monotonic() - self.interval
        waiting = sorted((self.runs[run].looked_at, run) for run in dag_ids if self.runs[run].looked_at <= begin)
        few = set(islice(dict.fromkeys(dag_ids[run] for _, run in waiting), _DAGS_PER_LOOK))
        again = {run for run in dag_ids if self.runs[run].look_again}
        return again | {run for _, run in waiting if dag_ids[run] in few}

    def looked_at(self, runs: Iterable[int]) -> None:
        """Record a look for missing tasks; the next one is due after the interval, even if this loop fails."""
        for run in runs:
            self.runs[run].looked_at = monotonic()
            self.runs[run].look_again = False

    def oldest_look(self, runs: Iterable[int]) -> float:
        """Return the longest time, in seconds, that any of these runs has waited for a look for missing tasks."""
        since = (max(self.runs[run].looked_at, self.runs[run].since) for run in runs)
        return monotonic() - min(since, default=monotonic()) if self.interval else 0.0

    def locked_for_long(self, answers: Iterable[RunBump]) -> list[RunBump]:
        """Record which runs are locked, and return those to warn about; a run is returned once until it is unlocked."""
        now = monotonic()
        late = []
        for row in answers:
            memory = self.runs[row.dag_run_id]
            if not row.locked:
                memory.locked_since = None
            elif memory.locked_since is None:
                memory.locked_since = now
            elif self.warn_held_after and now - memory.locked_since > self.warn_held_after:
                memory.locked_since = inf
                late.append(row)
        return late

    def take(self, loop: Loop) -> None:
        """Remember what a committed loop has left undone, and what it has done that the database does not show."""
        for run, answer in loop.answers.items():
            memory, verified = self.runs[run], run in loop.verified
            memory.unverified = (memory.unverified or run in loop.unverified) and not verified
            if verified:
                memory.tried, memory.look_again = None, True
            if not (answer.needs_verify and answer.locked and not answer.bumped):
                memory.verified = None
            elif verified:  # all stale TIs are locked, so the run still looks unverified
                memory.verified = answer.dag_version_id
