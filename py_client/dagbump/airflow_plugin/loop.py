"""What a scheduler's loop knows of its runs, and what it leaves to later ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice, takewhile
from math import inf
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from dagbump.airflow_plugin.compatibility import DagRun
from dagbump.results import RunBump, RunScope

_DAGS_PER_LOOK = 10
_RETRY_SECONDS = 60.0  # where missing tasks are never looked for
# What is remembered of a run that is examined no more: for so long, and longer where work is left undone in it.
_FORGET_SECONDS = 3600.0
_FORGET_UNVERIFIED_SECONDS = 24 * 3600.0


@dataclass
class Loop:
    """One try of one scheduler loop. What it knows is good for this transaction, and no longer.

    Attributes:
        session: the scheduler's.
        savepoint: begins a part of the session's transaction that can fail without the rest.
        outer: the session's innermost savepoint when the loop began, if there is one.
        answers: what the bump has answered, by run id: the version, and what was done.
        latest: the latest versions, by dag_id.
        dags: the DAGs that have been looked up, by version.
        waiting: ids of the runs that have to wait, since their latest version is locked and they lack something of it.
        unverified: ids of the runs for which verify_integrity is due by Airflow's sign.
        mendable: ids of the runs in which no task instance that lives may change: those that lack a task although
            Airflow takes them for verified, or have been verified for this version already.
        unmoved: ids of the unverified runs all of whose stale task instances are locked, so that the sign stays.
        scopes: what verify_integrity would find, of the runs that were asked about, by run id.
        verified: ids of the runs for which verify_integrity has been called, or would do nothing.
        mended: runs that lacked tasks, and these.
        lost: whether the bump has failed, or has gone with a rollback of the transaction.
    """

    session: Session
    savepoint: Callable[[], AbstractContextManager[Any]]
    outer: Any = None
    answers: dict[int, RunBump] = field(default_factory=dict)
    latest: dict[str, UUID] = field(default_factory=dict)
    dags: dict[UUID, Any] = field(default_factory=dict)
    waiting: set[int] = field(default_factory=set)
    unverified: set[int] = field(default_factory=set)
    mendable: set[int] = field(default_factory=set)
    unmoved: set[int] = field(default_factory=set)
    scopes: dict[int, RunScope] = field(default_factory=dict)
    verified: set[int] = field(default_factory=set)
    mended: list[tuple[RunBump, Collection[str]]] = field(default_factory=list)
    lost: bool = False

    def forget(self) -> None:
        """Forget what a bump said that has been undone; DAGs stay."""
        for learnt in (self.answers, self.latest, self.waiting, self.unverified, self.mendable, self.unmoved):
            learnt.clear()

    def knows(self, run: DagRun) -> bool:
        """Say whether the loop can answer for a run."""
        return not self.lost and run.id in self.answers

    def version_of(self, run: int) -> UUID:
        """Return the latest version of the DAG of a run that the loop knows."""
        return self.answers[run].dag_version_id

    def rolled_back(self, transaction: Any) -> None:
        """Take notice of a rollback: it loses the loop where it goes back to before the bump.

        A savepoint that was begun later takes nothing of the bump with it, nor does a flush that fails inside of one.
        """
        while transaction is not None and not transaction.nested:
            transaction = transaction.parent
        if transaction is None or transaction is self.outer:
            self.lost = True


@dataclass(slots=True)
class RunMemory:
    """What is remembered of one run, because the database does not say it. Times are of the monotonic clock.

    Attributes:
        since: when a loop first examined it.
        seen: when one last did.
        looked_at: when missing tasks were last looked for in it.
        look_again: the last loop verified it, and its version may have been rewritten since; or this one moves TIs.
        unverified: it was bumped, and its verify_integrity was not called after all, or raised: the latest version is
            on its TIs now, so Airflow's own sign that it is due is gone.
        verified: the version for which verify_integrity has been called, although the sign says that it is due: all of
            the stale TIs are locked. When they are let go, what was missed in between is mended.
        tried: the version for which verify_integrity raised, or was begun by a loop that has not committed, and when.
        airflows_until: until then Airflow's own code sees to the run, since it would not verify it.
        locked_since: since when stale TIs, or the version, have been locked.
        told: what has been logged of it already.
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
        """Say whether this is still to be logged; afterwards, it is not."""
        news = what not in self.told
        self.told.add(what)
        return news


@dataclass
class Memory:
    """What loops leave to later ones.

    Attributes:
        interval: missing tasks are looked for in a run once in so many seconds; 0: never.
        warn_held_after: so many seconds may something of a run be locked before a warning; 0: for ever.
        runs: by run id.
        waited_for: the versions whose lock has been logged.
    """

    interval: float
    warn_held_after: float
    runs: dict[int, RunMemory] = field(default_factory=dict)
    waited_for: set[UUID] = field(default_factory=set)

    def see(self, runs: Iterable[int]) -> None:
        """Take notice of the runs that a loop examines; forget those that none has examined for long."""
        now = time.monotonic()
        for run in runs:
            memory = self.runs.pop(run) if run in self.runs else RunMemory(now)
            memory.seen = now
            self.runs[run] = memory  # behind all that have been seen before
        for run, memory in [*takewhile(lambda item: now - item[1].seen > _FORGET_SECONDS, self.runs.items())]:
            if not memory.unverified or now - memory.seen > _FORGET_UNVERIFIED_SECONDS:
                del self.runs[run]

    def may_be_bumped(self, run: int) -> bool:
        """Say whether Airflow would verify a run, as far as the last loops know."""
        return self.runs[run].airflows_until < time.monotonic()

    def leave_to_airflow(self, runs: Iterable[int]) -> None:
        """Let Airflow's own code see to these runs for a while."""
        for run in runs:
            self.runs[run].airflows_until = time.monotonic() + _RETRY_SECONDS

    def may_try(self, run: int, version: UUID) -> bool:
        """Say whether verify_integrity may be called: where it raised, once in an interval."""
        tried = self.runs[run].tried
        interval = self.interval or _RETRY_SECONDS
        return tried is None or tried[0] != version or time.monotonic() - tried[1] >= interval

    def tries(self, run: int, version: UUID) -> None:
        """Take notice of a try; it counts until a loop commits it."""
        self.runs[run].tried = (version, time.monotonic())

    def to_look_at(self, dag_ids: Mapping[int, str]) -> set[int]:
        """Return the runs in which to look for missing tasks: of a few DAGs, those that have waited longest first.

        Each DAG has to be unpacked, which takes milliseconds. The others have their turn in the next loops. Those that
        the last loop verified are looked at in any case.
        """
        if not self.interval:
            return set()
        again = {run for run in dag_ids if self.runs[run].look_again}
        begin = time.monotonic() - self.interval
        waiting = sorted((self.runs[run].looked_at, run) for run in dag_ids if self.runs[run].looked_at <= begin)
        few = set(islice(dict.fromkeys(dag_ids[run] for _, run in waiting), _DAGS_PER_LOOK))
        return again | {run for _, run in waiting if dag_ids[run] in few}

    def looked_at(self, runs: Iterable[int]) -> None:
        """Take notice of a look; not again within the interval, whatever becomes of the loop."""
        for run in runs:
            self.runs[run].looked_at = time.monotonic()
            self.runs[run].look_again = False

    def oldest_look(self, runs: Iterable[int]) -> float:
        """Return for how many seconds that run has waited for a look that has waited longest."""
        now = time.monotonic()
        return max((now - max(self.runs[run].looked_at, self.runs[run].since) for run in runs), default=0.0)

    def locked_for_long(self, answers: Iterable[RunBump]) -> list[RunBump]:
        """Take what a bump says of its runs; return those of which it is time to warn, each once until it is free."""
        now = time.monotonic()
        late = []
        for row in answers:
            memory = self.runs[row.dag_run_id]
            if not row.locked:
                memory.locked_since = None
                memory.told.discard("locked")
                continue
            memory.locked_since = now if memory.locked_since is None else memory.locked_since
            if self.warn_held_after and now - memory.locked_since > self.warn_held_after and memory.tell("locked"):
                late.append(row)
        return late

    def take(self, loop: Loop) -> None:
        """Remember what a loop that has committed has left undone, or has done without a sign."""
        for run, answer in loop.answers.items():
            memory = self.runs[run]
            memory.unverified = (memory.unverified or run in loop.unverified) and run not in loop.verified
            if run not in loop.unmoved:
                memory.verified = None
            elif run in loop.verified:
                memory.verified = answer.dag_version_id
            if run in loop.verified:
                memory.tried = None
                memory.look_again = True
